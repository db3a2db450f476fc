"""AdamW in 8 bits: bounded errors, AdamW's own path, bounded updates, and its bytes."""

import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fewstep.errors import Interrupted, SettingError
from fewstep.models.adapters import full_roles, lora_roles
from fewstep.models.loading import load_model, load_skeleton
from fewstep.student.unfinished import read_student
from fewstep.training.adamw8bit import (
    BLOCK,
    LARGEST,
    SMALLEST,
    AdamW8bit,
    packed,
    state_bytes,
    unpacked,
)
from fewstep.training.average import update_average
from fewstep.training.distill import distill_run
from fewstep.training.plan import plan_run
from fewstep.training.settings import check_settings
from tests.tiny import tiny_config, tiny_pipeline
from tests.training.test_distill import same, stop_after, weights


def test_a_packed_value_is_a_sixteenth_off_or_half_of_the_smallest():
    values = torch.randn(3, 700, generator=torch.Generator().manual_seed(0)) ** 5
    values[0, :5] = 0
    codes, scale = packed(values)
    assert codes.shape == (-(-values.numel() // BLOCK), BLOCK)
    found = unpacked(codes, scale, values)
    each = scale.repeat(1, BLOCK).flatten()[: values.numel()].view_as(values)
    assert ((found - values).abs() <= torch.maximum(values.abs() / 16, each * SMALLEST)).all()
    assert ((found == 0) == (values == 0)).all()
    assert (found.sign() == values.sign()).all()
    torch.testing.assert_close(found.abs().max(), values.abs().max())
    assert torch.finfo(codes.dtype).max == LARGEST


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_first_step_is_adamws(decay):
    gradient = torch.randn(40, 30)
    ours, theirs = (nn.Parameter(torch.ones(40, 30)) for _ in range(2))
    for weight, kind in ((ours, AdamW8bit), (theirs, torch.optim.AdamW)):
        weight.grad = gradient.clone()
        kind([weight], lr=1e-2, weight_decay=decay, betas=(0.8, 0.99)).step()
    torch.testing.assert_close(ours, theirs)


def test_it_ends_where_adamw_does():
    """On a badly scaled least-squares problem with noisy gradients, within the noise."""
    distances = {}
    for kind in (AdamW8bit, torch.optim.AdamW):
        draw = torch.Generator().manual_seed(0)
        target, scales = torch.randn(512, generator=draw), torch.logspace(-3, 3, 512)
        weight = nn.Parameter(torch.zeros(512))
        optimizer = kind([weight], lr=2e-2, weight_decay=0.0)
        for step in range(600):
            optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 600)
            noise = 0.3 * torch.randn(512, generator=draw)
            weight.grad = scales * (weight.detach() - target + noise)
            optimizer.step()
        distances[kind] = (weight.detach() - target).norm() / target.norm()
    assert distances[AdamW8bit] < 1.15 * distances[torch.optim.AdamW] < 0.1


def test_no_update_explodes_where_gradients_of_one_block_differ_by_many_powers_of_ten():
    weight = nn.Parameter(torch.zeros(BLOCK))
    optimizer = AdamW8bit([weight], lr=1.0)
    sizes = torch.logspace(-12, 3, BLOCK)
    draw = torch.Generator().manual_seed(0)
    for step in range(50):
        before = weight.detach().clone()
        weight.grad = sizes * torch.randn(BLOCK, generator=draw) * (step % 7 != 3)
        optimizer.step()
        assert (weight - before).abs().max() < 10  # of the learning rate; AdamW's own bound is 7.3


def test_the_state_takes_two_bytes_a_weight_and_its_scales():
    weights = [nn.Parameter(torch.ones(shape)) for shape in ((64, 320), (7, 3, 3, 3))]
    optimizer = AdamW8bit(weights, lr=1e-3)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    held = [value for state in optimizer.state.values()
            for name, value in state.items() if name != "step"]  # fmt: skip
    assert sum(value.nbytes for value in held) == state_bytes(weights)
    assert state_bytes(weights[:1]) == 2 * 64 * 320 * (1 + 4 / BLOCK)


def test_a_run_in_little_memory_continues_to_the_bit(tmp_path):
    config = tiny_config("cd", optimizer="adamw8bit", ema_precision="bf16")
    distill_run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGTERM, config, tmp_path / "stopped")
    distill_run(config, tmp_path / "stopped")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    saved = load_file(tmp_path / "whole/checkpoints/00000006/optimizer.safetensors")
    assert {saved[name].dtype for name in saved if name.startswith("root/")} == {
        torch.float8_e4m3fn
    }
    averaged = load_file(tmp_path / "whole/checkpoints/00000006/averaged.safetensors")
    assert {weight.dtype for weight in averaged.values()} == {torch.bfloat16}


def test_without_an_average_the_last_weights_are_the_student(tmp_path):
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGTERM, tiny_config("cd", ema=0.0), tmp_path / "run")
    _, unfinished = read_student(tmp_path / "run")
    trained = load_file(tmp_path / "run/checkpoints/00000003/trained.safetensors")
    assert all(torch.equal(unfinished[n], w) for n, w in trained.items() if "lora_A" in n)
    distill_run(tiny_config("cd", ema=0.0), tmp_path / "run")
    (last, *_) = sorted((tmp_path / "run/checkpoints").iterdir(), reverse=True)
    assert not (last / "averaged.safetensors").exists()
    trained, student = load_file(last / "trained.safetensors"), weights(tmp_path / "run")
    for name, weight in trained.items():
        scale = 4.0 if "lora_B" in name else 1.0  # alpha 8, rank 2
        torch.testing.assert_close(student[f"unet.{name}"], scale * weight)


def test_the_average_in_bf16_is_the_average_without_a_bias():
    """Rounded to the nearest it would stand still: each step moves it less than half a rounding."""
    average = {"w": torch.ones(20_000, dtype=torch.bfloat16)}
    weight = {"w": torch.full((20_000,), 1.02)}
    for step in range(60):
        update_average(average, weight, decay=0.95, key=(0, step))
    expected = 1.02 - 0.02 * 0.95**60
    assert abs(average["w"].float().mean().item() - expected) < 2e-4
    assert average["w"].float().std() < 2**-7
    plain = {"w": torch.ones(5)}
    update_average(plain, {"w": torch.full((5,), 2.0)}, decay=0.75, key=(0, 0))
    torch.testing.assert_close(plain["w"], torch.full((5,), 1.25))


def test_the_plan_counts_both():
    plain = plan_run(tiny_config("cd"), on_cpu=True).cost
    small = plan_run(tiny_config("cd", optimizer="adamw8bit", ema_precision="bf16"), on_cpu=True)
    weights = lora_roles(load_skeleton(tiny_pipeline()), "all", 2, 8.0).trained.values()
    assert plain.optimizer == plain.adapters == 2 * plain.gradients
    assert small.cost.optimizer == state_bytes(weights)
    assert small.cost.adapters == plain.gradients * 3 // 2
    assert plan_run(tiny_config("cd", ema=0.0), on_cpu=True).cost.adapters == plain.gradients


def test_the_average_of_a_whole_network_is_not_kept_in_bf16():
    config = replace(tiny_config("cd", ema_precision="bf16"), adapter=None)
    with pytest.raises(SettingError, match=r"ema_precision is 'bf16', and without \[adapter\]"):
        check_settings(config)


def test_a_whole_network_without_an_average_is_one_copy_beside_the_teacher():
    family = load_model(tiny_pipeline())
    roles = full_roles(family, averages=False)
    assert all(roles.averaged[name] is weight for name, weight in roles.trained.items())
    x, t, cond = torch.randn(1, 4, 8, 8), torch.tensor([499]), family.encode_prompts([""])
    assert roles.student(x, t, cond).eps.requires_grad
    assert not roles.ema(x, t, cond).eps.requires_grad
