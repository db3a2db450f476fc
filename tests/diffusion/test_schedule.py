import hashlib
import math
import struct
from itertools import accumulate
from operator import mul

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.diffusion.schedule import CLEAN, NoiseSchedule, per_sample

LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
TRAINED = {"trained_betas": [0.001 + 0.0001 * i for i in range(50)], "num_train_timesteps": 50}
ZERO_SNR = {"rescale_betas_zero_snr": True}

CONFIGS = {
    "linear": LINEAR,
    "scaled_linear": SCALED,
    "squaredcos": COSINE,
    "trained_betas": TRAINED,
    "500 timesteps": SCALED | {"num_train_timesteps": 500},
    "linear to zero SNR": LINEAR | ZERO_SNR,
    "scaled_linear to zero SNR": SCALED | ZERO_SNR,
    "trained_betas to zero SNR": TRAINED | ZERO_SNR,
}


def built(name: str) -> tuple[NoiseSchedule, DDIMScheduler]:
    """Return our schedule and diffusers' scheduler of the same config."""
    config = {"num_train_timesteps": 1000} | CONFIGS[name]
    return NoiseSchedule.from_config(config), DDIMScheduler(**config)


def timesteps(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_equals_diffusers_alphas_cumprod(name):
    ours, theirs = built(name)
    table = (ours.alphas[1:] ** 2).numpy()
    assert table.shape == theirs.alphas_cumprod.shape
    # They multiply 1000 factors in fp32, and near zero SNR they have subtracted before.
    tolerance = 1e-4 if "zero SNR" in name else 2e-5
    np.testing.assert_allclose(table, theirs.alphas_cumprod.numpy(), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_signal_and_noise_have_unit_power_and_noise_only_grows(name):
    ours, _ = built(name)
    power = ours.alphas**2 + ours.sigmas**2
    assert torch.allclose(power, torch.ones_like(power), rtol=0, atol=1e-15)
    assert (ours.sigmas.diff() > 0).all()
    assert ours.alphas.dtype == ours.sigmas.dtype == torch.float64


def test_the_levels_of_stable_diffusion_are_the_published_ones(schedule):
    assert schedule.alpha(timesteps(0)).item() ** 2 == pytest.approx(0.999150, abs=1e-6)
    ratios = schedule.noise_to_signal(timesteps(999, 749, 499, 249, 19)).tolist()
    assert ratios == pytest.approx([14.615, 4.082, 1.613, 0.693, 0.1345], abs=5e-4)
    assert not schedule.ends_in_pure_noise


def test_snr_is_the_inverse_square_of_the_noise_level(schedule):
    t = timesteps(0, 10, 500, 999)
    torch.testing.assert_close(schedule.snr(t), schedule.noise_to_signal(t) ** -2)


def test_clean_data_is_all_signal_and_timestep_0_is_not(schedule):
    clean, first = timesteps(CLEAN), timesteps(0)
    assert schedule.alpha(clean).item() == 1
    assert schedule.sigma(clean).item() == 0
    assert 0 < schedule.sigma(first).item() < 0.03
    x_0 = torch.randn(1, 4)
    assert torch.equal(schedule.add_noise(x_0, torch.randn(1, 4), clean), x_0)


def test_rescaling_to_zero_snr_ends_in_pure_noise_and_keeps_the_first_timestep(config):
    plain, rescaled = (NoiseSchedule.from_config(config | extra) for extra in ({}, ZERO_SNR))
    assert rescaled.ends_in_pure_noise
    assert rescaled.sigma(timesteps(999)).item() == 1
    assert rescaled.alphas[1].item() == pytest.approx(plain.alphas[1].item(), rel=1e-14)
    noise = torch.randn(1, 4)
    assert torch.equal(rescaled.add_noise(torch.randn(1, 4), noise, timesteps(999)), noise)


def test_noise_is_added_to_each_sample_at_its_own_timestep(schedule):
    x_0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    mixed = schedule.add_noise(x_0, noise, timesteps(10, 900))
    for i, t in enumerate((10, 900)):
        signal = math.prod(1 - b**2 for b in np.linspace(0.00085**0.5, 0.012**0.5, 1000)[: t + 1])
        expected = math.sqrt(signal) * x_0[i] + math.sqrt(1 - signal) * noise[i]
        torch.testing.assert_close(mixed[i], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_noisy_latents_is_that_of_the_clean_ones(schedule, dtype):
    x_0 = torch.ones(1, 4, dtype=dtype)
    assert schedule.add_noise(x_0, x_0, timesteps(300)).dtype == dtype


def test_the_levels_are_fp32_and_the_table_behind_them_is_exact_to_fp64(schedule):
    t = timesteps(0, 999)
    for level in (schedule.alpha, schedule.sigma, schedule.noise_to_signal, schedule.snr):
        assert level(t).dtype == torch.float32
    alpha, sigma = schedule.levels(t, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-15


def test_the_digest_is_a_hash_of_alphas_cumprod_and_never_changes(schedule, config):
    roots = [0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999 for i in range(1000)]
    table = accumulate((1 - root * root for root in roots), mul)
    by_hand = hashlib.sha256(b"".join(struct.pack("<d", value) for value in table)).hexdigest()
    assert schedule.digest == by_hand == NoiseSchedule.from_config(config).digest
    # Written down in every artefact of a Stable Diffusion student: it must stay readable.
    assert schedule.digest == "64950371762943a246ec1303ed174d293abdfb31300f9d34e7d7792da48b167f"


def test_the_digest_tells_schedules_apart(schedule, config):
    others = [{"beta_end": 0.0120001}, {"num_train_timesteps": 999}, ZERO_SNR, LINEAR, COSINE]
    digests = {NoiseSchedule.from_config(config | other).digest for other in others}
    assert len(digests | {schedule.digest}) == len(others) + 1


def test_a_schedule_moves_to_a_device_as_it_is(schedule):
    moved = schedule.to("cpu")
    assert torch.equal(moved.alphas, schedule.alphas)
    assert moved.digest == schedule.digest


def test_an_unknown_beta_schedule_is_refused_by_name(config):
    with pytest.raises(ValueError, match=r"unknown beta_schedule 'sigmoid'.*scaled_linear"):
        NoiseSchedule.from_config(config | {"beta_schedule": "sigmoid"})


@pytest.mark.parametrize("number", [10**12, 1, 0, -5, 2.5, "1000", None])
def test_a_number_of_timesteps_that_no_model_has_is_refused(config, number):
    with pytest.raises(ValueError, match=r"num_train_timesteps is .* use 2 to 100000"):
        NoiseSchedule.from_config(config | {"num_train_timesteps": number})


@pytest.mark.parametrize(
    "table",
    [[], [0.9, 0.95], [0.9, 0.9], [1.0, 0.5], [1.2, 0.5], [0.5, -0.1], [0.5, math.nan]],
)
def test_a_table_that_does_not_fall_from_1_to_0_is_refused(table):
    with pytest.raises(ValueError, match="has to fall strictly"):
        NoiseSchedule.from_alphas_cumprod(table)


def test_per_sample_numbers_broadcast_over_any_shape():
    numbers = torch.tensor([1.0, 2.0])
    for shape in ((2,), (2, 5), (2, 3, 4, 4)):
        product = per_sample(numbers, torch.ones(shape)) * torch.ones(shape)
        assert product[0].eq(1).all()
        assert product[1].eq(2).all()
