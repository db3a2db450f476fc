"""Every kind of image becomes upright RGB; what cannot is refused with its reason."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.data.base import ImageError
from fewstep.data.images import MAX_PIXELS, decode, open_image
from fewstep.student.sample import open_image as start_image
from tests.data.samples import RED, SIZE, bomb, content, noise, truncated


def colours(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_a_plain_image_keeps_its_colours(kind):
    values = colours(content(Image.new("RGB", SIZE, RED), kind))
    assert values.shape == (80, 96, 3)
    assert np.abs(values.astype(int) - RED).max() <= 6


def test_a_cmyk_jpeg_has_the_colours_that_it_shows():
    values = colours(content(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG"))
    assert np.abs(values.astype(int) - (255, 0, 0)).max() <= 6


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", SIZE, (0, 0, 255, 0))
    image.paste((0, 0, 255, 255), (0, 0, 48, 80))
    values = colours(content(image))
    assert values[0, 0].tolist() == [0, 0, 255]
    assert values[0, -1].tolist() == [255, 255, 255]
    assert colours(content(Image.new("LA", SIZE, (0, 127)))).mean() == pytest.approx(128, abs=1)


def test_a_palette_with_a_transparent_entry_is_read():
    image = Image.new("P", SIZE)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 48, 80))
    values = colours(content(image, transparency=0))
    assert values[0, 0].tolist() == [200, 100, 50]
    assert values[0, -1].tolist() == [255, 255, 255]
    assert colours(content(image))[0, -1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_cut_off(kind):
    ramp = np.linspace(0, 65535, 80 * 96).astype(np.uint16).reshape(80, 96)
    values = colours(content(Image.fromarray(ramp), kind))
    assert np.abs(values[..., 0] - ramp / 257).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("kind", "white"),
    [("float32", 1), ("float32", 255), ("float32", 65535),
     ("int32", 255), ("int32", 65535), ("int32", 2**31 - 1)],
)  # fmt: skip
def test_numbers_that_do_not_say_what_is_white_are_not_black(kind, white):
    ramp = np.linspace(0, 1, 80 * 96).reshape(80, 96)
    values = colours(content(Image.fromarray((ramp * white).astype(kind)), "TIFF"))
    assert np.abs(values[..., 0] - ramp * 255).max() <= 1.5


def test_exif_rotation_is_undone():
    upright = noise(0, (96, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    data = content(upright.rotate(90, expand=True), "PNG", exif=exif)
    assert np.array_equal(colours(data), np.asarray(upright))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    data = content(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(colours(data).astype(int) - RED).max() <= 8


def test_a_truncated_jpeg_that_verify_passes_is_refused():
    from io import BytesIO

    Image.open(BytesIO(truncated())).verify()
    with pytest.raises(ImageError, match="truncated"):
        decode(truncated())


def test_a_decompression_bomb_is_refused_from_its_header():
    assert len(bomb()) < 1000
    with pytest.raises(ImageError, match="exceeds limit"):
        open_image(bomb())
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageError, match=f"{side} x {side} pixels, more than 100 million"):
        open_image(content(Image.new("1", (side, side))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "the file is empty"), (b"<svg></svg>", "not an image of a known format"),
     (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image of a known format")],
)  # fmt: skip
def test_what_is_no_image_is_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_anywhere_gives_an_image_or_a_reason_and_never_another_error(kind):
    whole = content(noise(1), kind)
    rng = np.random.default_rng(0)
    reasons = []
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), 8):
            data[place] = rng.integers(256)
        try:
            decode(bytes(data[: rng.integers(8, len(data))]))
        except ImageError as error:
            reasons.append(str(error))
    assert len(reasons) > 20
    assert all(reasons)


@pytest.mark.parametrize("international", [False, True])
def test_a_png_with_a_long_compressed_text_is_a_whole_image(tmp_path, international):
    text, pixels = PngInfo(), np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    words = "workflow " * 200_000
    if international:
        text.add_itxt("workflow", words, zip=True)
    else:
        text.add_text("workflow", words, zip=True)
    Image.fromarray(pixels).save(tmp_path / "long.png", pnginfo=text)
    content = (tmp_path / "long.png").read_bytes()
    assert np.array_equal(np.asarray(decode(content)), pixels)
    assert np.array_equal(np.asarray(start_image(tmp_path / "long.png")), pixels)
    with pytest.raises(ImageError):
        decode(content[:-30])
