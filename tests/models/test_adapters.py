"""One frozen base in several roles gives what separate networks would give."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from peft.tuners.lora import LoraLayer

from fewstep.diffusion.guidance import guided
from fewstep.diffusion.random import Draw
from fewstep.methods import METHODS, Batch, Denoisers
from fewstep.models.adapters import folded, full_roles, lora_roles, merge_lora
from fewstep.models.base import ModelError
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import load_model
from fewstep.models.lora_layers import FAST_LAYERS, active_sum, merged_weight
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


def test_a_change_of_role_visits_no_layer(family, inputs, monkeypatch):
    roles = lora_roles(family, "all", RANK, ALPHA)
    learning = {name for name, weight in family.network.named_parameters() if weight.requires_grad}
    assert {name.replace(".student.", ".") for name in learning} == set(roles.trained)

    def refuse(layer, *args):
        raise AssertionError("a change of role visited hundreds of layers")

    for name in ("set_adapter", "enable_adapters"):
        monkeypatch.setattr(LoraLayer, name, refuse)
    with pytest.raises(RuntimeError):
        roles.teacher(inputs[0][:, :1], *inputs[1:])
    disturb(roles)
    assert not torch.equal(roles.student(*inputs).eps, roles.ema(*inputs).eps)
    assert {n for n, w in family.network.named_parameters() if w.requires_grad} == learning


@pytest.mark.parametrize(("alpha", "dropout"), [(ALPHA, 0.0), (float(RANK), 0.0), (ALPHA, 0.5)])
def test_the_fast_layers_give_what_pefts_own_give(family, inputs, alpha, dropout):
    roles = lora_roles(family, "all", RANK, alpha, dropout=dropout)
    disturb(roles)
    roles.network.train()

    def outputs():
        torch.manual_seed(0)
        queried = [roles.student] if dropout else [roles.student, roles.ema, roles.teacher]
        return [role(*inputs).eps for role in queried]

    ours = outputs()
    layers = [layer for layer in family.network.modules() if type(layer) in FAST_LAYERS.values()]
    assert {type(layer) for layer in layers} == set(FAST_LAYERS.values())
    for layer in layers:
        layer.__class__ = next(own for own, fast in FAST_LAYERS.items() if type(layer) is fast)
    for mine, pefts in zip(ours, outputs(), strict=True):
        torch.testing.assert_close(mine, pefts)


def gradients(method, nets, batch, family, accumulate=1, scale=1.0):
    """Leave the gradient of one optimiser step, of `accumulate` micro-batches, in the student."""
    size = len(batch.x_0) // accumulate
    for first in range(0, len(batch.x_0), size):
        rows = range(first, first + size)
        part = Batch(batch.x_0[rows], {name: row[rows] for name, row in batch.cond.items()})
        output = method.loss(nets, part, family.schedule, Draw.keyed(0, rows))
        (scale * output.loss.mean() / accumulate).backward()


def has_gradient_of_copies(
    method, batch, family, roles, copy, teacher, checkpointing, target="student", accumulate=1,
    **bounds,
):  # fmt: skip
    """Compare the roles' gradients with those of a network of its own for each role.

    `copy` is the student's network; that of the target is another copy, with the averaged weights
    if it is the average's. `teacher` denoises with a third.
    """
    uncond = family.encode_prompts([""])
    by_name, frozen = dict(copy.named_parameters()), deepcopy(copy)
    if target == "ema":
        weights = dict(frozen.named_parameters())
        for key, average in roles.averaged.items():
            weights[key.replace(".weight", ".student.weight")].data = average.clone()
    nets = Denoisers(
        family.denoiser(copy), family.denoiser(frozen), guided(teacher, uncond, 4.0), teacher
    )
    gradients(method, nets, batch, family, accumulate)

    set_checkpointing(roles.network.train(), checkpointing)
    mine = roles.ema if target == "ema" else roles.student
    nets = Denoisers(roles.student, mine, guided(roles.teacher, uncond, 4.0), roles.teacher)
    gradients(method, nets, batch, family, accumulate)
    for key, weight in roles.trained.items():
        expected = by_name[key.replace(".weight", ".student.weight")].grad
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected, **bounds)


@pytest.mark.parametrize(
    ("checkpointing", "accumulate", "target"),
    [("none", 1, "student"), ("none", 3, "ema"), ("selective", 1, "ema"), ("full", 3, "student")],
)
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_separate_copies(
    family, inputs, name, checkpointing, accumulate, target
):
    x, _, cond = inputs
    family.network.to(memory_format=torch.contiguous_format)  # rounds alike wherever it lies
    teacher = family.denoiser(deepcopy(family.network))
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    for average in roles.averaged.values():
        average += 0.05
    method, batch = METHODS[name](), Batch(x, cond)

    has_gradient_of_copies(
        method, batch, family, roles, deepcopy(roles.network), teacher, checkpointing, target,
        accumulate, rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("call", [0, 10**12], ids=["by operations", "always"])
@pytest.mark.parametrize("rank", [1, 32])
def test_one_product_with_the_merged_weight_is_the_layer_and_its_adapter(
    family, inputs, rank, call, monkeypatch
):
    monkeypatch.setattr("fewstep.models.lora_layers.KERNEL_CALL", call)
    roles = lora_roles(family, "all", rank, 2.0 * rank)
    disturb(roles)
    layers = [layer for layer in family.network.modules() if type(layer) in FAST_LAYERS.values()]
    merged = []
    for layer in layers:
        is_linear = isinstance(layer.base_layer, torch.nn.Linear)
        shape = (3, 64, layer.in_features) if is_linear else (3, layer.in_features, 8, 8)
        x = torch.randn(shape)
        weights = [layer.lora_A["student"].weight, layer.lora_B["student"].weight]
        outcomes = []
        for forward in (layer, partial(active_sum, layer)):
            y = forward(x)
            y.sin().sum().backward()
            outcomes.append([y, *(weight.grad.clone() for weight in weights)])
            for weight in weights:
                weight.grad = None
        for mine, apart in zip(*outcomes, strict=True):
            assert (mine - apart).norm() < 1e-5 * apart.norm()
        merged.append(merged_weight(layer, 3 * 64) is not None)
        with torch.no_grad():
            assert (layer(x) - active_sum(layer, x)).norm() < 1e-5 * layer(x).norm()
    assert all(merged) if call or rank == 32 else not any(merged)


def test_adapters_stay_apart_where_a_sum_would_lose_them(family):
    roles = lora_roles(family, "all", 32, 32.0, dropout=0.1)
    layer = next(layer for layer in roles.network.modules() if type(layer) in FAST_LAYERS.values())
    assert merged_weight(layer, 10**6) is None  # each position loses others
    with torch.no_grad():
        assert merged_weight(layer, 10**6) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert merged_weight(layer, 10**6) is None
        layer.base_layer.to(torch.bfloat16)
        assert merged_weight(layer, 10**6) is None


def test_checkpointing_keeps_less_for_the_backward_pass(family, inputs):
    roles, kept = lora_roles(family, "all", RANK, ALPHA), {}
    for kind in ("none", "selective", "full"):
        set_checkpointing(roles.network.train(), kind)
        storages: dict[int, int] = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction = roles.student(*inputs)
        kept[kind] = sum(storages.values())
        del prediction
    assert kept["full"] < kept["selective"] < 0.9 * kept["none"]


HALVES = [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)]

MOST_ROUNDINGS = 40
"""An output of the tiny network is 3 roundings off, and the gradient of a sum of outputs 5 to 10.
The loss pulls by a difference of two outputs, a fiftieth of them in size, which cancels digits: 13
to 37 over noises, presets and versions, in bf16 as in fp16, where a rounding is an eighth."""


def error(roles, expected):
    """Return the distance of the student's gradient to another, as a share of its length."""
    assert all(weight.grad is not None for weight in roles.trained.values())
    mine = torch.cat([weight.grad.flatten() for weight in roles.trained.values()])
    theirs = torch.cat([expected[name].flatten() for name in roles.trained])
    return ((mine - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("make", [lambda f: lora_roles(f, "all", RANK, ALPHA), full_roles])
@pytest.mark.parametrize(("dtype", "rounding"), HALVES)
def test_gradients_in_half_precision_are_those_of_fp32_to_its_rounding(
    inputs, make, dtype, rounding
):
    x, _, cond = inputs
    method, expected = METHODS["multi-boundary-cd"](distance="squared-error"), {}
    for precision, scale in ((torch.float32, 1.0), (dtype, 2.0**8)):
        family = load_model(tiny_pipeline(), dtype=precision)
        roles = make(family)
        if roles.network is family.network:
            disturb(roles)
        nets = Denoisers(roles.student, roles.student, roles.teacher)
        gradients(method, nets, Batch(x, cond), family, scale=scale)
        for weight in roles.trained.values():
            assert weight.dtype == torch.float32
            weight.grad /= scale
        expected = expected or {name: weight.grad for name, weight in roles.trained.items()}
    assert 0 < error(roles, expected) < MOST_ROUNDINGS * rounding


def test_accumulated_gradients_are_those_of_one_batch(inputs):
    """In double precision; in fp32 another batch size rounds otherwise, by 8e-6 of the gradient."""
    x, _, cond = inputs
    family = load_model(tiny_pipeline(), dtype=torch.float64)
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    roles.network.double()  # old PEFT computes in the precision of the adapters
    nets = Denoisers(roles.student, roles.student, roles.teacher)
    method, batch = METHODS["multi-boundary-cd"](distance="squared-error"), Batch(x.double(), cond)
    gradients(method, nets, batch, family)
    expected = {name: weight.grad for name, weight in roles.trained.items()}
    for weight in roles.trained.values():
        weight.grad = None
    gradients(method, nets, batch, family, accumulate=3)
    assert error(roles, expected) < 1e-6


def test_a_callers_autocast_leaves_no_gradient_out(inputs):
    x, _, cond = inputs
    family = load_model(tiny_pipeline())
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    nets = Denoisers(roles.student, roles.student, roles.teacher)
    method = METHODS["multi-boundary-cd"](distance="squared-error")
    gradients(method, nets, Batch(x, cond), family)
    expected = {name: weight.grad.clone() for name, weight in roles.trained.items()}
    for weight in roles.trained.values():
        weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):  # its cache would keep the target's casts
        gradients(method, nets, Batch(x, cond), family)
    assert 0 < error(roles, expected) < MOST_ROUNDINGS * 2**-8


def test_dropout_falls_on_the_student_alone_and_only_in_training(family, inputs):
    roles = lora_roles(family, "all", RANK, ALPHA, dropout=0.5)
    disturb(roles)
    roles.network.train()
    assert not torch.equal(roles.student(*inputs).eps, roles.student(*inputs).eps)
    assert torch.equal(roles.teacher(*inputs).eps, roles.teacher(*inputs).eps)
    with torch.no_grad():  # as a target
        assert torch.equal(roles.student(*inputs).eps, roles.student(*inputs).eps)
    roles.network.eval()
    assert torch.equal(roles.student(*inputs).eps, roles.student(*inputs).eps)


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


def whole_lora(family):
    roles = lora_roles(family, "attention", RANK, ALPHA)
    return folded(roles.trained, 1.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w, one: {**w, "lora_unet_mid.lora_down.weight": w[one]}, "lora_down.weight is no"),
        (lambda w, one: {**w, "mid.alpha": torch.ones(())}, "mid.alpha is no part of a LoRA"),
        (lambda w, one: {n: v for n, v in w.items() if n != one}, "is missing"),
        (lambda w, one: {**w, one: w[one][:, :1]}, "in another shape"),
        (lambda w, one: {}, "it has no weights"),
    ],
)
def test_a_lora_that_is_not_whole_is_refused(family, damage, message):
    plain = deepcopy(family.network)
    weights = whole_lora(family)
    one = next(name for name in sorted(weights) if ".lora_B." in name)
    with pytest.raises(ModelError, match=message):
        merge_lora(plain, damage(weights, one))


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
