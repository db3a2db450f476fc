import math

import pytest
import torch

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import PREDICTION_TYPES
from fewstep.diffusion.schedule import CLEAN
from fewstep.diffusion.solvers import ddim

T = torch.tensor([0, 300, 999])


def conditional(schedule, network, kind="epsilon"):
    """Return a denoiser that its text and its size steer."""

    def denoise(x_t, t, cond):
        shift = cond["text"].mean((1, 2)) + cond["size"][:, 0]
        return PREDICTION_TYPES[kind](network(x_t + shift[:, None], t), x_t, t, schedule)

    return denoise


def conditions():
    return {"text": torch.randn(3, 5, 2), "size": torch.randn(3, 1)}


def nothing():
    return {"text": torch.full((1, 5, 2), 0.2), "size": torch.full((1, 1), -0.7)}


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", [1.5, 8.0])
def test_guidance_equals_two_separate_calls_put_together(schedule, network, kind, scale):
    """The papers write (1 + w) eps_cond - w eps_uncond; ours is w + 1."""
    denoise, cond, x_t = conditional(schedule, network, kind), conditions(), torch.randn(3, 4)
    uncond = {name: value.expand_as(cond[name]) for name, value in nothing().items()}
    with_text, without = denoise(x_t, T, cond), denoise(x_t, T, uncond)
    together = guided(denoise, nothing(), scale)(x_t, T, cond)
    w = scale - 1
    for ours, yes, no in (
        (together.eps, with_text.eps, without.eps),
        (together.x_0, with_text.x_0, without.x_0),
    ):
        torch.testing.assert_close(ours, (1 + w) * yes - w * no, rtol=1e-5, atol=2e-5)


def test_a_guided_prediction_still_explains_the_noisy_latents(schedule, network):
    x_t = torch.randn(3, 4)
    pair = guided(conditional(schedule, network), nothing(), 8.0)(x_t, T, conditions())
    torch.testing.assert_close(pair.at(T), x_t, rtol=0, atol=2e-5)


def test_a_guided_step_equals_the_step_of_the_guided_noise(schedule, network):
    denoise, cond, x_t = conditional(schedule, network), conditions(), torch.randn(3, 4)
    uncond = {name: value.expand_as(cond[name]) for name, value in nothing().items()}
    no, yes = denoise(x_t, T, uncond).eps, denoise(x_t, T, cond).eps
    by_hand = PREDICTION_TYPES["epsilon"](no + 7.5 * (yes - no), x_t, T, schedule).at(
        T.clamp(max=200)
    )
    step = ddim(guided(denoise, nothing(), 7.5), x_t, T, T.clamp(max=200), cond)
    torch.testing.assert_close(
        step, torch.where((T <= 200)[:, None], x_t, by_hand), atol=1e-5, rtol=1e-5
    )


def test_both_predictions_come_from_one_call_of_the_network(schedule, network):
    denoise, batches = conditional(schedule, network), []

    def counting(x_t, t, cond):
        batches.append(len(x_t))
        return denoise(x_t, t, cond)

    guided(counting, nothing(), 3.0)(torch.randn(3, 4), T, conditions())
    assert batches == [6]


def test_a_scale_of_1_is_the_denoiser_itself(schedule, network):
    denoise = conditional(schedule, network)
    assert guided(denoise, nothing(), 1) is denoise


@pytest.mark.parametrize("scale", [0.99, 0.0, -3.0, math.inf, math.nan])
def test_a_scale_below_1_or_not_finite_is_refused(schedule, network, scale):
    with pytest.raises(ValueError, match=f"guidance_scale is {scale}; it has to be 1"):
        guided(conditional(schedule, network), nothing(), scale)


def test_where_text_changes_nothing_guidance_changes_nothing(schedule, network):
    denoise = conditional(schedule, network)
    same = {name: value.expand(3, *value.shape[1:]) for name, value in nothing().items()}
    x_t, clean = torch.randn(3, 4), torch.full((3,), CLEAN)
    torch.testing.assert_close(
        guided(denoise, nothing(), 8.0)(x_t, T, same).at(clean), denoise(x_t, T, same).at(clean)
    )


@pytest.mark.parametrize("prompts", [1, 3])
def test_a_text_of_another_length_is_refused_by_name(schedule, network, prompts):
    longer = nothing() | {"text": torch.zeros(prompts, 7, 2)}
    words = r"a row of 'text' has shape \(7, 2\) for the unconditional prompt and \(5, 2\)"
    with pytest.raises(ValueError, match=words):
        guided(conditional(schedule, network), longer, 3.0)(torch.randn(3, 4), T, conditions())


@pytest.mark.parametrize(("lacks", "kept"), [("unconditional", "text"), ("conditional", "size")])
def test_an_entry_that_only_one_of_the_prompts_has_is_refused_by_name(
    schedule, network, lacks, kept
):
    cond, uncond = conditions(), nothing()
    (lost,) = {"text", "size"} - {kept}
    del (uncond if lacks == "unconditional" else cond)[lost]
    with pytest.raises(ValueError, match=f"the {lacks} prompt has no '{lost}'"):
        guided(conditional(schedule, network), uncond, 3.0)(torch.randn(3, 4), T, cond)
