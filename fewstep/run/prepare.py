"""`fewstep prepare` and `fewstep data check`: look at data, and encode them before training."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.config import Config, DataSettings
from fewstep.data.check import Findings, check_source
from fewstep.data.encoding import Start
from fewstep.data.framing import Framing
from fewstep.data.opening import open_source, subset
from fewstep.data.prompts import read_prompts
from fewstep.errors import UserError
from fewstep.models.loading import default_device
from fewstep.run.workshop import Workshop


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
        UserError: if there is nothing that can be looked at, or a caption is missing.
    """
    path = Path(data.path)
    if path.suffix == ".txt":
        prompts = read_prompts(path, data.num_pairs, data.seed)
        return Findings(0, captions=[len(prompt) for prompt in prompts.prompts])
    source = subset(open_source(data)[0], data.num_pairs, data.seed)
    framing = Framing(data.resolution, max_upscale=data.max_upscale) if data.resolution else None
    return check_source(source, framing, start(len(source)))
