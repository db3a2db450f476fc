"""The scenes behind a caption: only those of its very words, each as likely as it occurs."""

import torch

from fewstep.diffusion.random import generator
from recipes.bundled_teacher.peers import Peers

CAPTIONS = torch.tensor(
    [[[1, 2], [3, 4]], [[1, 2], [1, 2]], [[5, 6], [3, 4]], [[7, 8], [7, 9]]],
    dtype=torch.short,
)  # of four scenes, two each


def drawn(scene: int, which: int, num: int) -> torch.Tensor:
    asked = torch.tensor([scene]), torch.tensor([which])
    return Peers.of(CAPTIONS).draw(*asked, num, generator("peers", scene, which))[0]


def test_peers_are_the_scenes_of_which_the_same_was_said():
    for scene, which, behind in ((0, 0, {0, 1}), (0, 1, {0, 2}), (2, 0, {2}), (3, 1, {3})):
        assert set(drawn(scene, which, 200).tolist()) == behind


def test_a_scene_is_drawn_as_often_as_the_caption_was_said_of_it():
    counts = drawn(0, 0, 9000).bincount(minlength=4) / 9000
    torch.testing.assert_close(counts, torch.tensor([1, 2, 0, 0]) / 3, atol=0.03, rtol=0)
