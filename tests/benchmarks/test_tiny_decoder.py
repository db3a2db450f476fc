"""The benchmark of small decoders compares images of the same latents."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.tiny_decoder import decode_times, psnr, quality
from fewstep.models.loading import load_model
from fewstep.models.tiny_decoder import default_channels, new_decoder, with_vae
from fewstep.student.generate import teacher_sampler


@pytest.fixture(scope="module")
def both():
    """The teacher in two steps, with the VAE's decoder and with an untrained small one."""
    family = load_model("bundled")
    sampler = teacher_sampler(family, 2, 2.0)
    decoder = new_decoder(with_vae(family), default_channels(with_vae(family)))
    return sampler, replace(sampler, family=replace(with_vae(family), decoder=decoder))


def test_psnr_is_that_of_the_mean_squared_error():
    black = torch.zeros(5, 4, 4, 3, dtype=torch.uint8)
    found = psnr(black + 51, black)
    assert found.value == pytest.approx(20 * math.log10(5))
    assert (found.low, found.high, found.n) == (found.value, found.value, 5)


def test_a_grey_level_is_48_decibels_and_the_difference_is_paired(both):
    full, _ = both
    found = quality((full, replace(full, family=Shifted(full.family))), 6, 5)
    value = {name: entry["value"] for name, entry in found.items()}
    level = 20 * math.log10(255)
    for name in ("psnr_of_held_out_scenes", "psnr_of_the_student"):
        assert level - 1e-6 <= value[name] < level + 3, "white stays white"
    difference = value["prompt_accuracy_tiny"] - value["prompt_accuracy_full"]
    assert value["prompt_accuracy_difference"] == pytest.approx(difference)
    assert value["same_verdict"] <= 1 - abs(difference) + 1e-9
    assert [entry["n"] for entry in found.values()] == [5, 6, 6, 6, 6, 6]


class Shifted:
    """A family whose images are a grey level off."""

    def __init__(self, family):
        self.family = family

    def decode(self, latents):
        return (self.family.decode(latents) + 1 / 255).clamp(0, 1)


def test_an_untrained_decoder_is_far_off_and_is_timed(both):
    assert quality(both, 6, 5)["psnr_of_the_student"]["value"] < 20
    rows = decode_times(both, 5)
    assert [row["batch_size"] for row in rows] == [1, 16]
    assert all(row["times_as_fast"]["value"] > 0 and row["times_as_fast"]["n"] == 5 for row in rows)
