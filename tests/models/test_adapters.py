"""One frozen base in several roles gives what separate networks would give."""

from copy import deepcopy

import pytest
import torch

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.random import Draw
from fewstep.methods import METHODS, Batch, Denoisers
from fewstep.models.adapters import full_roles, lora_roles, merge_lora
from fewstep.models.base import ModelError
from fewstep.models.loading import load_model
from fewstep.publishing.formats import folded
from tests.tiny import tiny_pipeline

RANK, ALPHA = 2, 8.0


@pytest.fixture
def family():
    return load_model(tiny_pipeline())


@pytest.fixture
def inputs(family):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=draw)
    return x, torch.tensor([19, 499, 999]), family.encode_prompts(["a star", "", "a red heart"])


def disturb(roles, seed=1):
    """Give the student weights that matter."""
    draw = torch.Generator().manual_seed(seed)
    for weight in roles.trained.values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=draw)


@pytest.mark.parametrize("preset", ["attention", "transformer", "all"])
def test_an_untrained_student_is_its_teacher(family, inputs, preset):
    roles = lora_roles(family, preset, RANK, ALPHA)
    assert torch.equal(roles.student(*inputs).eps, roles.teacher(*inputs).eps)


def test_the_teacher_does_not_change_while_the_student_is_trained(family, inputs):
    before = family.denoiser(family.network)(*inputs).eps.detach().clone()
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    assert torch.equal(roles.teacher(*inputs).eps, before)
    assert not torch.allclose(roles.student(*inputs).eps, before, atol=1e-2)
    assert torch.equal(roles.ema(*inputs).eps, before)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["ct", "cd", "multi-boundary-cd"])
def test_the_gradient_is_that_of_separate_copies(family, inputs, name, checkpointing):
    x, _, cond = inputs
    uncond = family.encode_prompts([""])
    teacher = family.denoiser(deepcopy(family.network))
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    method, batch = METHODS[name](), Batch(x, cond)

    copy = deepcopy(roles.network)
    by_name = dict(copy.named_parameters())
    plain = family.denoiser(copy)
    target = family.denoiser(deepcopy(copy))
    nets = Denoisers(plain, target, guided(teacher, uncond, 4.0))
    method.loss(nets, batch, family.schedule, Draw.keyed(0, range(3))).loss.mean().backward()

    if checkpointing:
        roles.network.enable_gradient_checkpointing()
    nets = Denoisers(roles.student, roles.student, guided(roles.teacher, uncond, 4.0))
    method.loss(nets, batch, family.schedule, Draw.keyed(0, range(3))).loss.mean().backward()

    for key, weight in roles.trained.items():
        expected = by_name[key.replace(".weight", ".student.weight")].grad
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_only_the_students_adapter_gets_gradients(family, inputs):
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    roles.teacher(*inputs)
    roles.ema(*inputs)
    roles.student(*inputs).eps.square().mean().backward()
    trained = {id(weight) for weight in roles.trained.values()}
    with_gradient = {id(p) for p in roles.network.parameters() if p.grad is not None}
    assert with_gradient == trained


def test_the_first_weights_are_a_function_of_the_seed(family):
    again = load_model(tiny_pipeline())
    torch.manual_seed(99)  # the global state plays no part
    one, two = (
        lora_roles(family, "all", RANK, ALPHA, seed=5),
        lora_roles(again, "all", RANK, ALPHA, seed=5),
    )
    assert all(torch.equal(one.trained[name], two.trained[name]) for name in one.trained)
    other = lora_roles(load_model(tiny_pipeline()), "all", RANK, ALPHA, seed=6)
    assert any(not torch.equal(one.trained[name], other.trained[name]) for name in one.trained)


@pytest.mark.parametrize("preset", ["attention", "all"])
def test_a_merged_lora_is_the_student_with_alpha_other_than_rank(family, inputs, preset):
    plain = deepcopy(family.network)
    roles = lora_roles(family, preset, RANK, ALPHA)
    disturb(roles)
    merge_lora(plain, folded(roles.trained, ALPHA / RANK))
    merged = family.denoiser(plain)(*inputs).eps
    torch.testing.assert_close(merged, roles.student(*inputs).eps, rtol=1e-4, atol=1e-5)


def test_a_lora_of_another_network_is_refused(family):
    weights = {"nowhere.lora_A.weight": torch.ones(2, 3), "nowhere.lora_B.weight": torch.ones(3, 2)}
    with pytest.raises(ModelError, match="nowhere"):
        merge_lora(family.network, weights)


def test_a_preset_that_matches_nothing_is_refused(family):
    family.network.down_blocks = torch.nn.ModuleList()
    family.network.up_blocks = torch.nn.ModuleList()
    family.network.mid_block = None
    with pytest.raises(ModelError, match="'attention' matches no module"):
        lora_roles(family, "attention", RANK, ALPHA)


def test_full_fine_tuning_leaves_the_teacher_frozen(family, inputs):
    roles = full_roles(family)
    before = roles.teacher(*inputs).eps.clone()
    disturb(roles)
    assert torch.equal(roles.teacher(*inputs).eps, before)
    assert not any(p.requires_grad for p in family.network.parameters())
