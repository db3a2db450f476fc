import pytest
import torch

from fewstep.diffusion.prediction import PREDICTION_TYPES, output_reader
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule

LEVELS = torch.tensor([0, 19, 249, 499, 749, 999])


def truth(schedule: NoiseSchedule, t: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return clean latents, noise, their mixture and what each kind of network should say."""
    x_0, noise = torch.randn(len(t), 4, 3, 3), torch.randn(len(t), 4, 3, 3)
    alpha, sigma = schedule.levels(t, x_0)
    return {
        "x_0": x_0,
        "x_t": schedule.add_noise(x_0, noise, t),
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x_0,
        "sample": x_0,
    }


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_network_that_is_right_is_read_as_the_true_pair(schedule, kind):
    true = truth(schedule, LEVELS)
    pair = PREDICTION_TYPES[kind](true[kind], true["x_t"], LEVELS, schedule)
    # An error of the output is divided by alpha or sigma: by 0.07 at 999, by 0.03 at 0.
    torch.testing.assert_close(pair.x_0, true["x_0"], rtol=0, atol=2e-5)
    torch.testing.assert_close(pair.eps, true["epsilon"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_any_output_is_read_as_a_pair_that_explains_the_noisy_latents(schedule, kind):
    x_t, output = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    pair = PREDICTION_TYPES[kind](output, x_t, LEVELS, schedule)
    torch.testing.assert_close(pair.at(LEVELS), x_t, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_at_clean_a_prediction_is_its_x_0(schedule, kind):
    pair = PREDICTION_TYPES[kind](torch.randn(6, 4), torch.randn(6, 4), LEVELS, schedule)
    assert torch.equal(pair.at(torch.full_like(LEVELS, CLEAN)), pair.x_0)


def test_pure_noise_is_read_from_v_and_x_0_without_a_division_by_zero(config):
    schedule = NoiseSchedule.from_config(config | {"rescale_betas_zero_snr": True})
    t = torch.tensor([999, 999])
    noise, x_0 = torch.randn(2, 4), torch.randn(2, 4)
    from_v = output_reader("v_prediction", schedule)(-x_0, noise, t, schedule)
    from_x_0 = output_reader("sample", schedule)(x_0, noise, t, schedule)
    for pair in (from_v, from_x_0):
        assert torch.equal(pair.x_0, x_0)
        assert torch.equal(pair.eps, noise)


def test_epsilon_cannot_be_read_where_the_schedule_ends_in_pure_noise(config):
    schedule = NoiseSchedule.from_config(config | {"rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match=r"rescale_betas_zero_snr.*alpha is 0.*v_prediction"):
        output_reader("epsilon", schedule)


def test_an_unknown_prediction_type_is_refused_by_name(schedule):
    with pytest.raises(ValueError, match="unknown prediction_type 'noise'; known: epsilon, v_pred"):
        output_reader("noise", schedule)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_known_prediction_types_are_found(schedule, kind):
    assert output_reader(kind, schedule) is PREDICTION_TYPES[kind]
