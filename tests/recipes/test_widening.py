"""A widened UNet computes what the narrow one did, and its copies can learn to differ."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from recipes.bundled_teacher.widening import repeats, split_inputs, widen


def unet(*channels: int) -> UNet2DConditionModel:
    torch.manual_seed(len(channels))
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, attention_head_dim=(2, 2, 4), cross_attention_dim=12,
        norm_num_groups=4,
    )  # fmt: skip


@torch.no_grad()
def outputs(network: UNet2DConditionModel) -> torch.Tensor:
    torch.manual_seed(1)
    x_t, text = torch.randn(5, 4, 8, 8), torch.randn(5, 3, 12)
    return network(x_t, torch.tensor([0, 1, 250, 700, 999]), text).sample


def test_doubling_every_level_changes_nothing():
    narrow, wide = unet(8, 16, 32), unet(16, 32, 64)
    widen(narrow, wide)
    torch.testing.assert_close(outputs(wide), outputs(narrow), rtol=1e-4, atol=1e-5)


def test_widening_some_levels_changes_normalisations_alone():
    """Repeated features weigh more in a norm: 0.1 of the output here, 0.055 in the shipped UNet."""
    narrow, wide = unet(8, 16, 32), unet(16, 24, 32)
    widen(narrow, wide)
    change = (outputs(wide) - outputs(narrow)).norm() / outputs(narrow).norm()
    assert 1e-4 < change < 0.2
    assert (outputs(unet(16, 24, 32)) - outputs(narrow)).norm() > outputs(narrow).norm()


def test_copies_are_read_with_different_weights_that_sum_to_the_trained_one():
    weight = torch.randn(6, 2, 3, 3)
    index = repeats([2], [4])
    split = split_inputs(weight, index, torch.Generator().manual_seed(0))
    torch.testing.assert_close(split.unflatten(1, (2, 2)).sum(2), weight)
    assert not torch.allclose(split[:, 0], split[:, 1])


@pytest.mark.parametrize(
    ("old", "new", "index"),
    [([2], [3], [0, 0, 1]), ([2, 1], [4, 1], [0, 0, 1, 1, 2]), ([3], [3], [0, 1, 2])],
)
def test_features_are_repeated_beside_themselves_part_by_part(old, new, index):
    assert repeats(old, new).tolist() == index
