"""`fewstep prepare` and `fewstep data check`: look at data, and encode them before training."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.config import Config, DataSettings
from fewstep.data.captions import CaptionErrors
from fewstep.data.check import Findings, check_source
from fewstep.data.encoding import Start
from fewstep.data.framing import Framing
from fewstep.data.opening import open_data, open_source, subset
from fewstep.data.prompts import Prompts
from fewstep.errors import UserError
from fewstep.models.loading import default_device
from fewstep.training.setup import Workshop


@dataclass(frozen=True)
class Prepared:
    """Where the cache lies, what it holds, and what a user should know of it."""

    folder: Path
    pairs: int
    skipped: int
    notes: tuple[str, ...]

    def said(self) -> str:
        """Return it in words."""
        listed = f"; {self.skipped} skipped, see {self.folder / 'skipped.txt'}"
        done = f"{self.pairs} pairs in {self.folder}{listed if self.skipped else ''}"
        return "\n".join([*self.notes, done])


def prepare_data(
    config: Config,
    run: Path,
    start: Start = lambda total: lambda count: None,
    device: str | None = None,
) -> Prepared:
    """Encode the data of a config for the run `run` and those beside it, from where it was left.

    Raises:
        UserError: before any work, if a setting, the model, the data or the disk is at fault; or if
            too many pictures cannot be used.
    """
    if config.data.streaming:
        raise UserError(
            "data.streaming is true: pairs are encoded at each step, and there is nothing to "
            "prepare; leave it out to have a cache"
        )
    shop = Workshop(config, run, device or default_device())
    notes, supply = shop.prepare(start), shop.supply
    cache = supply.cache(seed=0, group=1)
    skipped = len(supply.pairs) - len(cache)
    return Prepared(supply.cache_folder, len(cache), skipped, tuple(notes))


def check_data(
    data: DataSettings,
    start: Start = lambda total: lambda count: None,
) -> Findings:
    """Look at the data that the table [data] names; all of them where it gives no number.

    Raises:
        UserError: if there is nothing that can be looked at.
    """
    try:
        if data.path == "bundled" or data.path.endswith(".txt"):
            return _check_words(data)
        source = subset(open_source(data)[0], data.num_pairs, data.seed)
    except CaptionErrors as error:
        return Findings(0, error.reasons)
    framing = Framing(data.resolution, max_upscale=data.max_upscale) if data.resolution else None
    return check_source(source, framing, start(len(source)))


def _check_words(data: DataSettings) -> Findings:
    """Look at captions whose pictures are made on the spot: drawn, or painted by the teacher."""
    pairs = open_data(data, data.resolution or 64)
    lengths = [len(text) for number in range(len(pairs)) for text in pairs.captions(number)]
    return Findings(0 if isinstance(pairs, Prompts) else len(pairs), captions=lengths)
