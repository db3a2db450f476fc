"""`fewstep data check`: look at every pair, and list what is there and what is wrong with it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from statistics import median

from PIL import Image

from fewstep.config import DataSettings
from fewstep.console import Steps, TaskProgress, counted
from fewstep.data.base import ImageError, Source
from fewstep.data.captions import SampleErrors
from fewstep.data.encode import one_line
from fewstep.data.images import BROKEN, Framing, decode, open_image
from fewstep.data.members import is_sidecar_pattern, pattern_of
from fewstep.data.pairs import Prompts, open_data, open_source, subset
from fewstep.models.base import PromptLength
from fewstep.models.prompts import clip_lengths, quoted

EXIF_ORIENTATION = 0x0112
SHOWN = 5
"""How many of the longest captions are listed."""

BY_CLIP = "the tokenizer of Stable Diffusion 1 and 2 (--model MODEL counts by another's)"

LengthsOf = Callable[[Sequence[str]], Sequence[PromptLength]]


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
    tokens: list[int] = field(default_factory=list)
    too_long: list[tuple[str, PromptLength]] = field(default_factory=list)
    tokens_by: str = ""
    broken: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    unused: Sequence[str] = ()

    @property
    def is_usable(self) -> bool:
        """Whether every sample has an image that can be decoded, and a caption."""
        return not (self.left_out or self.broken)

    def as_json(self) -> str:
        """Return the findings for programs."""
        too_long = [{"name": name} | asdict(length) for name, length in self.too_long]
        entries = {"is_usable": self.is_usable} | vars(self) | {"too_long": too_long}
        return json.dumps(entries, indent=2, default=list)

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
            lines += [
                f"captions    {_spread(self.captions)} characters",
                f"tokens      {_spread(self.tokens)}, by {self.tokens_by}",
            ]
        if self.too_long:
            lines += self._too_long()
        for what, files in (
            ("without a caption or an image that can be used", self.left_out),
            ("broken", self.broken),
            ("too small", self.too_small),
        ):
            if files:
                lines += [f"{len(files)} {what}:", *(f"  {one_line(file)}" for file in files)]
        return lines + self._unused()

    def add_captions(
        self, name: str, captions: Sequence[str], lengths: Sequence[PromptLength]
    ) -> None:
        """Note the captions of an image, and which are longer than a text encoder reads."""
        self.captions += map(len, captions)
        self.tokens += [length.tokens for length in lengths]
        self.too_long += [(name, length) for length in lengths if length.beyond]

    def _unused(self) -> list[str]:
        """Return a line for each kind of the files that belong to no pair."""
        kinds: dict[str, list[str]] = {}
        for name in self.unused:
            kinds.setdefault(pattern_of(one_line(name)), []).append(one_line(name))
        lines = [f"{counted(len(self.unused), 'file')} beside the pairs:"] if kinds else []
        for pattern, names in kinds.items():
            many = f"{len(names)} like " if len(names) > 1 else ""
            hint = f"; data.exclude = ['{pattern}'] leaves {'them' if many else 'it'} out"
            lines.append(f"  {many}{names[0]}{hint if is_sidecar_pattern(pattern) else ''}")
        return lines

    def _too_long(self) -> list[str]:
        longest = sorted(self.too_long, key=lambda one: -one[1].tokens)[:SHOWN]
        number, limit = counted(len(self.too_long), "caption"), longest[0][1].limit
        return [
            f"{number} longer than the {limit} tokens that are read at once: cut there, unless "
            "model.long_prompts is 'chunks'; the longest:",
            *(
                f"  {one_line(name)}: {it.tokens} tokens, beyond: {quoted(it.beyond)}"
                for name, it in longest
            ),
        ]


def check_data(data: DataSettings, model: str | None = None) -> Steps[Findings]:
    """Look, while iterated, at the data that [data] names; all of them where it sets no number.

    Tokens are those of `model`, what model.base would be, or else of CLIP.

    Raises:
        UserError: if there is nothing that can be looked at.
    """
    lengths_of, tokens_by = clip_lengths, BY_CLIP
    if model is not None:
        from fewstep.models.loading import load_skeleton  # seconds of imports

        lengths_of, tokens_by = load_skeleton(model).prompt_lengths, f"the tokenizer of {model}"
    try:
        if data.path == "bundled" or data.path.endswith(".txt"):
            return _check_captions(data, lengths_of, tokens_by)
        source = subset(open_source(data)[0], data.num_pairs, data.seed)
    except SampleErrors as error:
        return Findings(0, error.reasons)
    framing = Framing(data.resolution, max_upscale=data.max_upscale) if data.resolution else None
    return (yield from check_source(source, framing, lengths_of, tokens_by))


def _check_captions(data: DataSettings, lengths_of: LengthsOf, tokens_by: str) -> Findings:
    """Look at captions whose images are made on the fly: drawn, or generated by the teacher."""
    pairs = open_data(data, data.resolution or 64)
    findings = Findings(0 if isinstance(pairs, Prompts) else len(pairs), tokens_by=tokens_by)
    for number in range(len(pairs)):
        captions = pairs.captions(number)
        findings.add_captions(pairs.name(number), captions, lengths_of(captions))
    return findings


def check_source(
    source: Source,
    framing: Framing | None = None,
    lengths_of: LengthsOf = clip_lengths,
    tokens_by: str = BY_CLIP,
) -> Steps[Findings]:
    """Decode every image to its end; with a framing also find which are too small for it.

    `lengths_of` counts the captions' tokens by `tokens_by`, a tokenizer's name.
    """
    findings = Findings(len(source), source.left_out, tokens_by=tokens_by, unused=source.unused)
    for number in range(len(source)):
        captions = source.captions(number)
        findings.add_captions(source.name(number), captions, lengths_of(captions))
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
