"""Prompts alone: the teacher generates the latents, for people who have no images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.data.captions import Faults, checked, numbered_lines
from fewstep.data.errors import DataError
from fewstep.data.source import digest


@dataclass(frozen=True)
class Prompts:
    """Pair i is prompt i and the noise of number i; beyond the last prompt it begins again."""

    prompts: tuple[str, ...]
    num_pairs: int
    seed: int = 0

    @property
    def identity(self) -> str:
        return digest([f"prompts {self.num_pairs} {self.seed}", *self.prompts])

    @property
    def parts(self) -> Sequence[int]:
        return (self.num_pairs,)

    def __len__(self) -> int:
        return self.num_pairs

    def name(self, number: int) -> str:
        return f"prompt {number % len(self.prompts) + 1}"

    def captions(self, number: int) -> tuple[str, ...]:
        return (self.prompts[number % len(self.prompts)],)


def read_prompts(path: Path, num_pairs: int | None, seed: int) -> Prompts:
    """Read a text file, one prompt a line.

    Raises:
        DataError: if it holds none.
    """
    prompts, faults = [], Faults()
    for number, line in numbered_lines(path):
        with faults.collected():
            prompts.append(checked(line, f"{path} line {number}"))
    faults.check()
    if not prompts:
        raise DataError(f"{path} holds no prompt; write one a line")
    return Prompts(tuple(prompts), num_pairs or len(prompts), seed)
