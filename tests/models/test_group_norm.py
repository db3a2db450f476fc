"""Group norms that leave channels last for a while are those that do not."""

import pytest
import torch
from torch import nn

from fewstep.models.group_norm import GroupNorm, with_fast_norms
from fewstep.models.loading import load_model
from tests.tiny import tiny_pipeline

LAST = torch.channels_last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [32, 128, 512])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("side", [4, 32])
def test_values_gradients_and_memory_layout_are_those_of_torchs_own(dtype, channels, layout, side):
    plain = nn.GroupNorm(32, channels).to(dtype)
    nn.init.normal_(plain.weight)
    fast = with_fast_norms(nn.Sequential(plain))[0]
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


def test_a_models_unet_has_them_and_its_names_stay():
    network = load_model(tiny_pipeline()).network
    norms = {name for name, m in network.named_modules() if isinstance(m, nn.GroupNorm)}
    assert "conv_norm_out" in norms
    assert {type(network.get_submodule(name)) for name in norms} == {GroupNorm}
    assert "conv_norm_out.weight" in network.state_dict()
