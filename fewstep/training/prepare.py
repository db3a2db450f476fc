"""`fewstep prepare`: encode data before training."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.config import Config
from fewstep.console import Steps
from fewstep.data.dataset import Dataset
from fewstep.data.pairs import check_path
from fewstep.distributed import ALONE
from fewstep.errors import UserError
from fewstep.models.loading import default_device
from fewstep.training.distill import encode
from fewstep.training.memory import check_preparing
from fewstep.training.networks import load_family
from fewstep.training.setup import join_processes, open_dataset, with_precision


@dataclass(frozen=True)
class Prepared:
    """The folder of a cache, the number of pairs in it, and notes for the user."""

    folder: Path
    pairs: int
    skipped: int
    notes: tuple[str, ...]

    def summary(self) -> str:
        """Return what was encoded, where it is, and how many were skipped."""
        skipped = f"; {self.skipped} skipped, see {self.folder / 'skipped.txt'}"
        done = f"{self.pairs} pairs in {self.folder}{skipped if self.skipped else ''}"
        return "\n".join([*self.notes, done])


def prepare_data(
    config: Config, run: Path, device: str | None = None, *, force: bool = False
) -> Steps[Prepared]:
    """Encode, while iterated, the data of a config for the run `run` and those beside it.

    `force` starts although the memory does not suffice.

    Raises:
        UserError: before any work, if a setting, the model, the data, the memory or the disk is at
            fault; or if too many images cannot be used.
    """
    dataset, notes = yield from prepared(config, run, device or default_device(), force=force)
    cache = dataset.cache(seed=0, group=1)
    skipped = len(dataset.pairs) - len(cache)
    notes = filter(None, (*notes, dataset.notice()))
    return Prepared(dataset.cache_folder, len(cache), skipped, tuple(notes))


def prepared(
    config: Config, run: Path, device: str, *, force: bool, for_decoder: bool = False
) -> Steps[tuple[Dataset, list[str]]]:
    """Open the data of a config and encode what is not encoded; return them with notes.

    `for_decoder` they have latents although the method needs none, and one process encodes.
    """
    if config.data.streaming:
        raise UserError(
            "data.streaming is true: pairs are encoded at each step, and there is nothing to "
            "prepare; leave it out to have a cache"
        )
    check_path(config.data.path)
    if not force:
        check_preparing(config, device)
    processes = ALONE if for_decoder else join_processes(config.train, device)
    family = load_family(with_precision(config, device).model, device)
    dataset = open_dataset(config, run, family, processes, for_decoder)
    return dataset, (yield from encode(dataset, processes))
