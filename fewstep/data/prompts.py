"""Prompts alone: the teacher paints the latents, for people who have no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.data.captions import checked, read_text
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
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no prompt; write one a line")
    prompts = tuple(checked(line, f"{path} line {i}") for i, line in enumerate(lines, 1))
    return Prompts(prompts, num_pairs or len(prompts), seed)
