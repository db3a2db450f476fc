"""A processor's layers give what torch's own give: values, gradients and memory layout."""

import pytest
import torch
from torch import nn
from torch.autograd import grad

from fewstep.models import processor_layers
from fewstep.models.loading import load_model
from fewstep.models.processor_layers import Conv2d, GroupNorm, with_fast_layers
from fewstep.models.quantised import stored
from tests.tiny import tiny_pipeline

LAST = torch.channels_last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [32, 128, 512])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("side", [4, 32])
def test_values_gradients_and_memory_layout_are_those_of_torchs_own(dtype, channels, layout, side):
    plain = nn.GroupNorm(32, channels).to(dtype)
    nn.init.normal_(plain.weight)
    fast = with_fast_layers(nn.Sequential(plain))[0]
    assert type(fast) is GroupNorm
    x = torch.randn(2, channels, side, side, dtype=dtype).to(memory_format=layout)
    x.requires_grad_()
    outcomes = []
    for norm in (nn.GroupNorm.forward, GroupNorm.forward):
        y = norm(fast, x)
        outcomes.append((y, *torch.autograd.grad(y.float().sin().sum(), (x, fast.weight))))
        assert y.is_contiguous(memory_format=layout)
    # bf16 keeps 8 bits, and a weight's gradient is a sum of a sample's pixels
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.5}
    )
    for expected, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("shape", [(2, 32, 9), (2, 32)])
def test_what_is_no_image_is_normalised_as_before(shape):
    norm = GroupNorm(32, 32)
    x = torch.randn(shape)
    assert torch.equal(norm(x), nn.GroupNorm.forward(norm, x))


@pytest.fixture
def every_weight_is_large(monkeypatch):
    monkeypatch.setattr(processor_layers, "LARGE", {1: 0, 9: 0})


def convolution(**options):
    conv = with_fast_layers(nn.Sequential(nn.Conv2d(8, 16, **options)))[0]
    return conv.to(memory_format=LAST)


SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": (0, 1), "stride": (1, 2)},
    {"kernel_size": 3, "bias": False},
    {"kernel_size": 1},
]


@pytest.mark.usefixtures("every_weight_is_large")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("side", [4, 5])
def test_a_convolution_as_one_product_is_torchs_own_with_all_gradients(options, side, dtype):
    conv = convolution(**options).to(dtype)
    x = torch.randn(2, 8, side, side, dtype=dtype).to(memory_format=LAST).requires_grad_()
    assert conv.is_product(x.shape, conv.weight)
    weights = (x, *conv.parameters())
    outcomes = []
    for forward in (nn.Conv2d._conv_forward, Conv2d._conv_forward):
        y = forward(conv, x, conv.weight, conv.bias)
        assert y.is_contiguous(memory_format=LAST)
        outcomes.append((y, *grad(y.float().sin().sum(), weights)))
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.1}
    for expected, found in zip(*outcomes, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.usefixtures("every_weight_is_large")
def test_what_is_no_product_stays_torchs_own():
    small, wide = torch.Size((1, 8, 4, 4)), torch.Size((1, 8, 32, 32))
    conv = convolution(kernel_size=3)
    assert conv.is_product(small, conv.weight)
    assert not conv.is_product(wide, conv.weight)
    assert not conv.is_product(small, conv.weight.contiguous()), "in torch's plain layout"
    for options in ({"groups": 2}, {"dilation": 2}, {"padding": "same"},
                    {"padding": 1, "padding_mode": "circular"}):  # fmt: skip
        conv = convolution(kernel_size=3, **options)
        assert not conv.is_product(small, conv.weight), options


@pytest.mark.usefixtures("every_weight_is_large")
def test_under_autocast_a_product_is_in_its_type_and_its_gradient_in_the_weights():
    conv = convolution(kernel_size=3)
    x = torch.randn(1, 8, 4, 4).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert grad(y.sum(), conv.weight)[0].dtype == torch.float32


@pytest.mark.usefixtures("every_weight_is_large")
def test_a_traced_convolution_is_one_of_torchs(tmp_path):
    conv, x = convolution(kernel_size=3), torch.randn(1, 8, 4, 4)
    assert "aten::_convolution" in str(torch.jit.trace(conv, x).inlined_graph)
    compiled = torch.export.export(conv, (x,))
    assert "conv2d" in str(compiled.graph)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_convolution_is_the_same_as_one_product(kind, monkeypatch):
    network = stored(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)), quantize=kind)
    conv = network.to(memory_format=LAST)[0]
    x = torch.randn(2, 64, 4, 4).to(memory_format=LAST).requires_grad_()
    outcomes = []
    for large in ({}, {9: 0}):
        monkeypatch.setattr(processor_layers, "LARGE", large)
        assert conv.is_product(x.shape, conv.whole_weight(x.dtype)) == bool(large)
        y = conv(x)
        outcomes.append((y, *grad(y.sin().sum(), x)))
    for expected, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_models_unet_has_them_and_its_names_stay():
    network = load_model(tiny_pipeline()).network
    for plain, fast in {nn.GroupNorm: GroupNorm, nn.Conv2d: Conv2d}.items():
        kinds = {type(module) for module in network.modules() if isinstance(module, plain)}
        assert kinds == {fast}
    assert "conv_norm_out.weight" in network.state_dict()
