"""A frozen base in 8 or 4 bits: its errors, its gradients, its memory, and the roles on it."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from fewstep.config import Quantize
from fewstep.methods import METHODS, Batch
from fewstep.models.adapters import lora_roles
from fewstep.models.base import fingerprint
from fewstep.models.loading import load_model, load_skeleton
from fewstep.models.quantised import (
    LAYERS,
    _quantise,
    from_nf4,
    layer_kind,
    nf4_levels,
    quantisation,
    stored,
    to_int8,
    to_nf4,
)
from tests.models.test_adapters import ALPHA, RANK, disturb, has_gradient_of_copies
from tests.tiny import tiny_pipeline

KINDS: tuple[Quantize, ...] = ("int8", "nf4")
SHAPES = [(24, 40), (32, 16, 3, 3), (17, 33)]


def drawn(shape, seed=0):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return rows * torch.linspace(0.01, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))


def quantised_layers(network):
    return [layer for layer in network.modules() if type(layer) in LAYERS.values()
            and layer.kind != "none"]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_at_most_half_a_step_of_its_channel_off(shape):
    weight = drawn(shape)
    codes, step = to_int8(weight)
    assert codes.dtype == torch.int8
    assert codes.shape == weight.shape
    torch.testing.assert_close(step.flatten(), weight.flatten(1).abs().amax(1) / 127)
    assert ((codes * step - weight).abs() <= step / 2 * (1 + 1e-5)).all()
    assert (codes.flatten(1).abs().amax(1) == 127).all()  # every channel uses its whole range


def test_nf4s_levels_are_the_published_ones():
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500,
                 0.0, 0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568,
                 1.0]  # fmt: skip
    assert (nf4_levels() - torch.tensor(published)).abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_takes_the_nearest_level_of_each_block(shape):
    weight = drawn(shape)
    codes, scale = to_nf4(weight)
    assert codes.dtype == torch.uint8
    assert codes.numel() == -(-weight.numel() // 64) * 32
    found = from_nf4(codes, scale, weight.shape, torch.float32)
    assert found.shape == weight.shape
    in_order = [
        w.movedim(1, -1).flatten() if w.dim() == 4 else w.flatten() for w in (weight, found)
    ]
    for number, largest in enumerate(scale.flatten()):
        mine, theirs = (flat[64 * number : 64 * (number + 1)] for flat in in_order)
        assert largest == mine.abs().max()
        nearest = (mine[:, None] - largest * nf4_levels()).abs().amin(1)
        torch.testing.assert_close((mine - theirs).abs(), nearest, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_of_zeros_stays_zero(kind):
    layer: Any = nn.Linear(64, 64, bias=False)
    layer.weight.data[3] = 0
    _quantise(layer, kind)
    assert (layer.whole_weight(torch.float32)[3] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(20, 33), (2, 5, 20)),
        (lambda: nn.Conv2d(18, 24, 3, stride=2, padding=1), (2, 18, 9, 9)),
        (lambda: nn.Conv2d(16, 20, 1, bias=False), (1, 16, 4, 4)),
    ],
)
def test_a_layer_and_its_gradient_are_those_of_the_plain_layer_with_the_same_weight(kind, make, x):
    layer, x = make(), torch.randn(x).requires_grad_()
    plain = deepcopy(layer)
    _quantise(layer, kind)
    plain.weight.data = layer.whole_weight(torch.float32)
    outcomes = []
    for each in (layer, plain):
        y = each(x)
        (gradient,) = torch.autograd.grad(y.sin().sum(), x)
        outcomes.append((y, gradient))
    for mine, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)


def plain_copy(network):
    """Return a network of plain layers with the same dequantised weights."""
    copy = deepcopy(network)
    for layer in quantised_layers(copy):
        weight = layer.whole_weight(torch.float64)
        del layer.weight
        layer.kind, layer.weight = "none", nn.Parameter(weight, requires_grad=False)
    return copy


@pytest.mark.parametrize(
    ("checkpointing", "target", "kind"), [("none", "ema", "nf4"), ("full", "student", "int8")]
)
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_separate_copies_with_the_same_weights(
    name, checkpointing, target, kind
):
    """In double precision, where the order of the sums rounds nothing away."""
    family = load_model(tiny_pipeline(), dtype=torch.float64, quantize=kind)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=draw, dtype=torch.float64)
    cond = family.encode_prompts(["a star", "", "a red heart"])
    family.network.double()
    teacher = family.denoiser(plain_copy(family.network))
    roles = lora_roles(family, "all", RANK, ALPHA)
    assert len(quantised_layers(roles.network)) > 20
    roles.network.double()
    disturb(roles)
    for average in roles.averaged.values():
        average += 0.05
    method, batch = METHODS[name](), Batch(x, cond)

    has_gradient_of_copies(
        method, batch, family, roles, plain_copy(roles.network), teacher, checkpointing, target,
        rtol=1e-6, atol=1e-9,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_whole_weight_is_kept_for_the_backward_pass(kind):
    kept = {}
    for storage in ("none", kind):
        family = load_model(tiny_pipeline(), dtype=torch.bfloat16, quantize=storage)
        roles = lora_roles(family, "all", RANK, ALPHA)
        own = {w.untyped_storage().data_ptr()
               for w in (*roles.network.parameters(), *roles.network.buffers())}  # fmt: skip
        sizes: dict[int, int] = {}

        def pack(tensor, own=own, sizes=sizes):
            pointer = tensor.untyped_storage().data_ptr()
            if pointer not in own:
                sizes[pointer] = tensor.untyped_storage().nbytes()
            return tensor

        cond = family.encode_prompts(["a star"])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction = roles.student(torch.randn(1, 4, 8, 8), torch.tensor([499]), cond)
        kept[storage] = sum(sizes.values())
        del prediction
    assert kept[kind] <= kept["none"]


def bytes_of(layers):
    return sum(t.nbytes for layer in layers for t in (layer.weight, getattr(layer, "scale", None))
               if t is not None)  # fmt: skip


def test_the_memory_is_that_of_the_formats():
    plain: Any = load_model(tiny_pipeline()).network
    names = [name for name, layer in plain.named_modules() if isinstance(layer, tuple(LAYERS))
             and min(layer.weight.shape[:2]) >= 16]  # fmt: skip
    weights = {name: plain.get_submodule(name).weight for name in names}
    of_kind: dict[Quantize, Any] = {
        "none": lambda w: 4 * w.numel(),
        "int8": lambda w: w.numel() + 4 * len(w),
        "nf4": lambda w: -(-w.numel() // 64) * (32 + 4),
    }
    found = {}
    for kind in KINDS:
        network = load_model(tiny_pipeline(), quantize=kind).network
        layers = {name: network.get_submodule(name) for name in names}
        found[kind] = {getattr(layer, "kind", "none") for layer in layers.values()}
        assert {id(layer) for layer in quantised_layers(network)} <= set(map(id, layers.values()))
        for name, layer in layers.items():
            own = layer_kind(name, plain, kind)
            assert getattr(layer, "kind", "none") == own
            assert bytes_of([layer]) == of_kind[own](weights[name])
        assert quantisation(network) == kind
    assert found == {"int8": {"none", "int8"}, "nf4": {"none", "int8", "nf4"}}
    assert quantisation(plain) == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_layers_at_the_latents_and_all_that_is_no_product_stay_as_they_are(kind):
    plain = load_model(tiny_pipeline(), dtype=torch.bfloat16)
    other = load_model(tiny_pipeline(), dtype=torch.bfloat16, quantize=kind)
    theirs = dict(plain.network.named_parameters())
    for name, weight in other.network.named_parameters():
        assert torch.equal(weight, theirs[name]), name
    assert {"conv_in.weight", "conv_out.weight", "conv_norm_out.weight", "conv_in.bias"} <= {
        name for name, _ in other.network.named_parameters()
    }
    assert (
        other.fingerprint == plain.fingerprint == fingerprint(load_model(tiny_pipeline()).network)
    )


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("nf4", 0.15)])
def test_a_quantised_teacher_predicts_nearly_what_the_plain_one_does(kind, most):
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([99, 899])
    outputs = []
    for quantize in ("none", kind):
        family = load_model(tiny_pipeline(), quantize=quantize)
        outputs.append(
            family.denoiser(family.network)(*inputs, family.encode_prompts(["a star", ""])).eps
        )
    plain, quantised = outputs
    assert 0 < (quantised - plain).norm() < most * plain.norm()


def test_finer_levels_and_what_reads_the_text_have_more_bits():
    network = load_skeleton("bundled", quantize="nf4").network
    text = ("attn2.to_k", "attn2.to_v")
    for name, layer in network.named_modules():
        if type(layer) not in (*LAYERS, *LAYERS.values()) or min(layer.weight.shape[:2]) < 16:
            continue
        if name.startswith(("down_blocks.0.", "up_blocks.2.")):
            expected = "none"
        elif name.startswith(("down_blocks.1.", "up_blocks.1.")) or name.endswith(text):
            expected = "int8"
        else:
            expected = "nf4"
        assert getattr(layer, "kind", "none") == expected, name


def test_a_compiled_network_gives_the_same():
    layers = nn.Sequential(nn.Conv2d(16, 32, 3), nn.SiLU(), nn.Flatten(), nn.Linear(32 * 36, 20))
    network = stored(layers, torch.float32, "int8")
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    outcomes = []
    for each in (network, torch.compile(network, backend="aot_eager")):
        y = each(x)
        outcomes.append((y, *torch.autograd.grad(y.sin().sum(), x)))
    for mine, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, expected)
