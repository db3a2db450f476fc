"""Images side by side, with labels, as one image."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Images = NDArray[np.uint8]
"""`[n, height, width, 3]`."""

PAPER, INK, FAINT = "#ffffff", "#16181d", "#5b6170"
GAP = 8


def grid(
    columns: Mapping[str, Images],
    prompts: Sequence[str],
    *,
    side: int = 192,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Draw a column for each source and a row for each prompt, its words above it.

    What follows a comma in a column's title stands below it in smaller print.
    `side` is the width of a drawn image in pixels; `resample` enlarges small ones (LANCZOS is
    smooth, NEAREST shows the pixels).

    Raises:
        ValueError: if a column does not have one image a prompt.
    """
    check(columns, prompts)
    large, small = ImageFont.load_default(side / 11), ImageFont.load_default(side / 13)
    line = round(side / 8)
    head = round(2.4 * line)
    tallest = max(column.shape[1] * side // column.shape[2] for column in columns.values())
    width = len(columns) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, head + len(prompts) * (tallest + 2 * line)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, (title, images) in enumerate(columns.items()):
        left = GAP + x * (side + GAP)
        name, _, more = title.partition(", ")
        pen.text((left, line // 2), fitted(name, large, side), INK, large)
        pen.text((left, line // 2 + line * 3 // 4), fitted(more, small, side), FAINT, small)
        for y, (prompt, pixels) in enumerate(zip(prompts, images, strict=True)):
            top = head + y * (tallest + 2 * line)
            if x == 0:
                pen.text((left, top), fitted(prompt, small, width - 2 * GAP), FAINT, small)
            size = (side, pixels.shape[0] * side // pixels.shape[1])
            sheet.paste(Image.fromarray(pixels).resize(size, resample), (left, top + line))
    return sheet


def check(columns: Mapping[str, Images], prompts: Sequence[str]) -> None:
    """Raises ValueError unless there are columns, prompts, and one uint8 image for each."""
    if not columns or not prompts:
        raise ValueError("a grid needs one column and one prompt or more")
    for title, images in columns.items():
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"{title}: images are uint8 [n, height, width, 3]")
        if len(images) != len(prompts):
            raise ValueError(f"{title}: {len(images)} images but {len(prompts)} prompts")


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text, cut short with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def png(image: Image.Image | NDArray[np.uint8], *, fast: bool = False) -> bytes:
    """Return an image as the bytes of a PNG file, made small or made fast."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, "PNG", **({"compress_level": 1} if fast else {"optimize": True}))
    return buffer.getvalue()
