"""The scenes of a caption: only those with the same words, each as likely as it occurs."""

import torch

from fewstep.diffusion.random import generator
from recipes.bundled_teacher.same_caption import SameCaption

CAPTIONS = torch.tensor(
    [[[1, 2], [3, 4]], [[1, 2], [1, 2]], [[5, 6], [3, 4]], [[7, 8], [7, 9]]],
    dtype=torch.short,
)  # of four scenes, two each


def drawn(scene: int, which: int, num: int) -> torch.Tensor:
    row = torch.tensor([scene]), torch.tensor([which])
    return SameCaption.of(CAPTIONS).draw(*row, num, generator("peers", scene, which))[0]


def test_the_scenes_drawn_have_the_same_caption():
    for scene, which, expected in ((0, 0, {0, 1}), (0, 1, {0, 2}), (2, 0, {2}), (3, 1, {3})):
        assert set(drawn(scene, which, 200).tolist()) == expected


def test_a_scene_is_drawn_in_proportion_to_its_occurrences_with_the_caption():
    counts = drawn(0, 0, 9000).bincount(minlength=4) / 9000
    torch.testing.assert_close(counts, torch.tensor([1, 2, 0, 0]) / 3, atol=0.03, rtol=0)
