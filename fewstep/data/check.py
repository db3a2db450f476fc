"""`fewstep data check`: look at every pair, and list what is there and what is wrong with it."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from PIL import Image

from fewstep.console import Steps, TaskProgress, counted
from fewstep.data.base import ImageError, Source
from fewstep.data.images import BROKEN, Framing, decode, open_image

EXIF_ORIENTATION = 0x0112


@dataclass
class Findings:
    """What was found: sizes of the usable images, lengths of captions, and the bad files.

    `left_out` has the reasons of samples without a usable caption or an image.
    """

    pairs: int
    left_out: Sequence[str] = ()
    sizes: list[tuple[int, int]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    captions: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    unused: Sequence[str] = ()

    @property
    def is_usable(self) -> bool:
        """Whether every sample has an image that can be decoded, and a caption."""
        return not (self.left_out or self.broken)

    def lines(self) -> list[str]:
        """Return the findings as text, with every file that cannot be used."""
        lines = [f"{counted(self.pairs, 'image')}, {counted(len(self.captions), 'caption')}"]
        if self.sizes:
            lines += [
                f"formats     {_counted(self.formats)}",
                f"width       {_spread([width for width, _ in self.sizes])}",
                f"height      {_spread([height for _, height in self.sizes])}",
                f"short side  {_spread([min(size) for size in self.sizes])}",
            ]
        if self.kinds:
            lines += [f"among them  {_counted(self.kinds)}"]
        if self.captions:
            lines += [f"captions    {_spread(self.captions)} characters"]
        for what, files in (
            ("without a caption or an image that can be used", self.left_out),
            ("broken", self.broken),
            ("too small", self.too_small),
            ("files that belong to no pair", self.unused),
        ):
            if files:
                lines += [f"{len(files)} {what}:", *(f"  {file}" for file in files)]
        return lines


def check_source(source: Source, framing: Framing | None = None) -> Steps[Findings]:
    """Decode every image to its end; with a framing also find which are too small for it."""
    findings = Findings(len(source), source.left_out, unused=source.unused)
    for number in range(len(source)):
        findings.captions += [len(caption) for caption in source.captions(number)]
        try:
            content = source.read(number)
            header, image = open_image(content), decode(content)
        except ImageError as error:
            findings.broken.append(f"{source.name(number)}: {error}")
        else:
            findings.sizes.append(image.size)
            findings.formats[header.format or "unknown"] += 1
            findings.kinds.update(_kinds(header))
            try:
                if framing:
                    framing.size_for(image.size)
            except ImageError as error:
                findings.too_small.append(f"{source.name(number)}: {error}")
        yield TaskProgress("looking at images", number + 1, len(source))
    return findings


def _kinds(header: Image.Image) -> list[str]:
    """Name what is done to an image before it is used; damaged headers count as ordinary."""
    frames, orientation = 1, 1
    with suppress(*BROKEN):
        frames = getattr(header, "n_frames", 1)
    with suppress(*BROKEN):
        orientation = header.getexif().get(EXIF_ORIENTATION, 1)
    kinds = {
        "animated (the first frame is used)": frames > 1,
        "turned upright": orientation != 1,
        "transparent (put on white)": header.has_transparency_data,
        "CMYK": header.mode == "CMYK",
        "16 bits": header.mode.startswith("I"),
    }
    return [kind for kind, holds in kinds.items() if holds]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


def _spread(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}, median {median(values):g}" if values else "none"
