"""A UNet that is trained on with more layers begins as the one that it grows out of."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.bundled.deepening import deepen, moved
from fewstep.bundled.denoiser_training import build_unet
from fewstep.bundled.teacher_config import load_teacher_config
from fewstep.config import SettingError

CONFIG = load_teacher_config(Path(__file__).with_name("tiny-teacher.toml"))
LATENTS = torch.Size([4, 16, 16])


def unet_of(num_layers: int, **settings):
    denoiser = replace(CONFIG.denoiser, num_layers=num_layers, **settings)
    unet = build_unet(replace(CONFIG, denoiser=denoiser), LATENTS)
    for weight in unet.parameters():  # also those that begin as zero
        torch.nn.init.normal_(weight, std=0.1)
    return unet


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (1, 3), (2, 3)])
def test_a_deeper_network_computes_the_same(before, after):
    stored, unet = unet_of(before), unet_of(after)
    x, t = torch.randn(2, *LATENTS), torch.tensor([3, 900])
    text = torch.randn(2, 5, CONFIG.text.width)
    expected = stored(x, t, text).sample
    assert not torch.allclose(unet(x, t, text).sample, expected, atol=1e-2)
    deepen(stored, unet)
    torch.testing.assert_close(unet(x, t, text).sample, expected, atol=1e-5, rtol=1e-5)


def test_the_further_layers_learn():
    stored, unet = unet_of(1), unet_of(2)
    deepen(stored, unet)
    out = unet(torch.randn(2, *LATENTS), torch.tensor(500), torch.randn(2, 5, CONFIG.text.width))
    out.sample.square().mean().backward()
    known = {moved(name, 1) for name in stored.state_dict()}
    further = {name: weight for name, weight in unet.named_parameters() if name not in known}
    for end in ("conv2.weight", "proj_out.weight"):
        adding = {name: weight for name, weight in further.items() if name.endswith(end)}
        assert len(adding) > 1
        assert [name for name, weight in adding.items() if not weight.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_layers": 1}, "denoiser.num_layers"),
        ({"num_layers": 2, "channels": (32, 32)}, "denoiser.channels"),
        ({"num_layers": 2, "heads": (2, 4)}, "denoiser.heads"),
        ({"num_layers": 2, "groups": 16}, "denoiser.groups"),
        ({"num_layers": 2, "attention": (True, True)}, "denoiser.attention"),
        ({"num_layers": 3, "attention": (False, False)}, "denoiser.attention"),
    ],
)
def test_other_networks_are_named(settings, named):
    with pytest.raises(SettingError, match=named):
        deepen(unet_of(2), unet_of(**settings))
