"""`fewstep data check`: look at every pair, and say what there is and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from PIL import Image

from fewstep.data.errors import ImageError
from fewstep.data.framing import Framing
from fewstep.data.images import BROKEN, decode, open_image
from fewstep.data.source import Source

EXIF_ORIENTATION = 0x0112


@dataclass
class Findings:
    """What was found: sizes of the usable images, lengths of captions, and the bad files.

    Where there are `faults` of captions, no image was looked at.
    """

    pairs: int
    faults: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    captions: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    unused: Sequence[str] = ()

    @property
    def is_usable(self) -> bool:
        """Whether every image can be decoded, and every caption used."""
        return not (self.faults or self.broken)

    def lines(self) -> list[str]:
        """Return the findings in words, with every file that cannot be used."""
        if self.faults:
            what = f"{len(self.faults)} captions cannot be used; mend these first:"
            return [what, *(f"  {fault}" for fault in self.faults)]
        lines = [f"{self.pairs} images, {len(self.captions)} captions"]
        if self.sizes:
            lines += [
                f"formats     {_counted(self.formats)}",
                f"width       {_spread([width for width, _ in self.sizes])}",
                f"height      {_spread([height for _, height in self.sizes])}",
                f"short side  {_spread([min(size) for size in self.sizes])}",
            ]
        if self.kinds:
            lines += [f"among them  {_counted(self.kinds)}"]
        lines += [f"captions    {_spread(self.captions)} characters"]
        named = {"broken": self.broken, "too small": self.too_small,
                 "beside them that belong to no pair": self.unused}  # fmt: skip
        for what, files in named.items():
            if files:
                lines += [f"{len(files)} {what}:", *(f"  {file}" for file in files)]
        return lines


def check_source(
    source: Source,
    framing: Framing | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Findings:
    """Decode every image to its end; with a framing also say which are too small for it."""
    found = Findings(len(source), unused=source.unused)
    for number in range(len(source)):
        found.captions += [len(caption) for caption in source.captions(number)]
        try:
            content = source.read(number)
            header = open_image(content)
            image = decode(content)
            found.sizes.append(image.size)
            found.formats[header.format or "unknown"] += 1
            found.kinds.update(_kinds(header))
            if framing is not None:
                _check_size(framing, image.size, source.name(number), found)
        except ImageError as error:
            found.broken.append(f"{source.name(number)}: {error}")
        advance(1)
    return found


def _check_size(framing: Framing, size: tuple[int, int], name: str, found: Findings) -> None:
    try:
        framing.size_for(size)
    except ImageError as error:
        found.too_small.append(f"{name}: {error}")


def _kinds(header: Image.Image) -> list[str]:
    """Name what is done to an image before it is used."""
    kinds = {
        "animated (the first frame is used)": _is_animated(header),
        "turned upright": _orientation(header) != 1,
        "transparent (put on white)": header.has_transparency_data,
        "CMYK": header.mode == "CMYK",
        "16 bits": header.mode.startswith("I"),
    }
    return [kind for kind, holds in kinds.items() if holds]


def _is_animated(header: Image.Image) -> bool:
    """Return whether there are more frames; where those are damaged it is not known."""
    try:
        return getattr(header, "n_frames", 1) > 1
    except BROKEN:
        return False


def _orientation(header: Image.Image) -> int:
    try:
        return header.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


def _spread(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}, half below {median(values):g}" if values else "none"
