"""Broken images, in harmless form: each is one counted image that is left out, or is read whole."""

import io
import struct
import zlib

import pytest
from PIL import Image

from fewstep.data.base import ImageError
from fewstep.data.check import check_source
from fewstep.data.folders import read_folder
from fewstep.data.images import decode
from fewstep.student.sample import open_image
from tests.broken.checks import refused
from tests.data.samples import content, folder_of, noise


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG whose header says this, with these chunks in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


PIXELS = chunk(b"IDAT", zlib.compress(bytes(8 * (8 * 3 + 1))))
PNG, JPEG, GIF = (content(noise(0), kind) for kind in ("PNG", "JPEG", "GIF"))
WEBP, TIFF, BMP = (content(noise(0), kind) for kind in ("WEBP", "TIFF", "BMP"))

BROKEN = {
    "nothing": b"",
    "one byte": b"\x89",
    "zeros": bytes(1000),
    "text": b"this is no image\n",
    "HTML": b"<!doctype html><title>404</title>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n",
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pointer of git-LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "PNG's signature": PNG[:8],
    "PNG's header": PNG[:33],
    "half a PNG": PNG[: len(PNG) // 2],
    "a JPEG's first bytes": JPEG[:20],
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "half a GIF": GIF[: len(GIF) // 2],
    "half a WebP": WEBP[: len(WEBP) // 2],
    "half a TIFF": TIFF[: len(TIFF) // 2],
    "half a BMP": BMP[: len(BMP) // 2],
    "no pixels": png(8, 8),
    "no width": png(0, 8, PIXELS),
    "no height": png(8, 0, PIXELS),
    "a header that claims 4 gigapixels": png(65536, 65536, PIXELS),
    "a header that claims the most": png(2**31 - 1, 2**31 - 1, PIXELS),
    "a width alone that is huge": png(2**31 - 1, 1, PIXELS),
    "pixels that end too early": png(8, 8, chunk(b"IDAT", zlib.compress(bytes(20)))),
    "pixels that are no zlib": png(8, 8, chunk(b"IDAT", b"not compressed")),
    "a depth that is none": png(8, 8, PIXELS, depth=3),
    "a colour that is none": png(8, 8, PIXELS, colour=5),
    "a wrong checksum": PNG[:29] + b"\0\0\0\0" + PNG[33:],
    "a PNG's end alone": PNG[:8] + chunk(b"IEND", b""),
    "a PNG with a JPEG's pixels": png(8, 8, chunk(b"IDAT", JPEG)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_refused(case):
    refused(lambda: decode(BROKEN[case]))
    with pytest.raises(ImageError):
        decode(BROKEN[case])


def test_every_broken_image_of_a_folder_is_counted_and_named(tmp_path):
    folder_of(tmp_path, 1)
    for number, data in enumerate(BROKEN.values()):
        (tmp_path / f"broken{number}.png").write_bytes(data)
        (tmp_path / f"broken{number}.txt").write_text("a cat")
    steps = check_source(read_folder(tmp_path))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    assert len(found.broken) == len(BROKEN)
    assert len(found.sizes) == 1
    assert not found.is_usable
    assert all("broken" in line and "\n" not in line for line in found.broken)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_to_start_from_is_refused(tmp_path, case):
    (path := tmp_path / "start.png").write_bytes(BROKEN[case])
    refused(lambda: open_image(path), "--image", "start.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "F"])
def test_an_image_of_any_mode_is_read_or_refused(mode):
    file = io.BytesIO()
    image = Image.new(mode, (9, 7))
    image.save(file, {"CMYK": "TIFF", "F": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG"))
    assert decode(file.getvalue()).size == (9, 7)
