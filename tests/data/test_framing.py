"""Frames: what is cut off, what is enlarged, and which bucket an image falls into."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewstep.data.base import ImageError
from fewstep.data.images import Framing, buckets_of
from tests.data.samples import noise


def test_a_square_is_cut_from_the_middle():
    image = Image.new("RGB", (128, 64), (0, 0, 0))
    image.paste((255, 0, 0), (32, 0, 96, 64))
    frame = Framing(64).frame(image, 0)
    assert torch.equal(frame, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 64, 64))
    assert frame.is_contiguous()


def test_an_image_of_its_frames_size_is_not_touched():
    image = noise(0, (64, 64))
    frame = Framing(64).frame(image, 0)
    assert np.array_equal((frame * 255).round().byte().permute(1, 2, 0), np.asarray(image))


def test_a_random_crop_is_a_function_of_seed_and_number():
    image, framing = noise(0, (192, 64)), Framing(64, crop="random")
    assert torch.equal(framing.frame(image, 3), framing.frame(image, 3))
    assert not torch.equal(framing.frame(image, 3), framing.frame(image, 4))
    assert not torch.equal(framing.frame(image, 3), Framing(64, "random", seed=1).frame(image, 3))


def test_squares_are_enlarged_up_to_the_limit_and_no_further():
    framing = Framing(96, max_upscale=1.5)
    assert framing.frame(noise(0, (64, 80)), 0).shape == (3, 96, 96)
    with pytest.raises(ImageError, match=r"63 x 80 pixels are too few.*data.max_upscale = 1.5"):
        framing.frame(noise(0, (63, 80)), 0)


@given(st.integers(32, 3000), st.integers(32, 3000))
def test_a_bucket_never_enlarges_and_always_divides(width, height):
    framing = Framing(512, buckets=buckets_of(512, 64))
    if min(width, height) < 256:
        with pytest.raises(ImageError, match="no bucket"):
            framing.size_for((width, height))
        return
    its_width, its_height = framing.size_for((width, height))
    assert its_width <= width
    assert its_height <= height
    assert its_width % 64 == its_height % 64 == 0
    assert its_width * its_height <= 512**2


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((640, 480), (576, 448)), ((480, 640), (448, 576)), ((2000, 2000), (512, 512)),
     ((500, 375), (448, 320)), ((1920, 1080), (640, 384)), ((400, 300), (384, 256))],
)  # fmt: skip
def test_the_bucket_keeps_most_of_the_image_at_most_pixels(size, bucket):
    assert Framing(512, buckets=buckets_of(512, 64)).size_for(size) == bucket
