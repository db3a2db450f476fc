"""The order of a run is a function of (seed, sample), goes through everything, and stays local."""

import pytest
import torch

from fewstep.data.order import Bucketed, Shuffled, ordered


@pytest.mark.parametrize(
    ("parts", "buffer"),
    [
        ((7,), 100),
        ((5, 1, 9, 4), 100),
        ((5, 1, 9, 4), 6),
        ((3, 0, 4, 2, 5, 1, 6), 1),
        ((50, 50), 64),
    ],
)
def test_every_epoch_shows_every_pair_once_in_an_order_of_its_own(parts, buffer):
    order, total = Shuffled(parts, 0, buffer), sum(parts)
    epochs = [[order.pair(epoch * total + i) for i in range(total)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert epochs[0] != epochs[1] or total == 1
    assert epochs[0] != [Shuffled(parts, 1, buffer).pair(i) for i in range(total)]


def test_a_sample_is_looked_up_without_what_came_before():
    parts, places = (40, 30, 50), [250, 3, 119, 120, 0, 250]
    one_by_one = [Shuffled(parts, 3, 16).pair(place) for place in places]
    order = Shuffled(parts, 3, 16)
    assert one_by_one == [order.pair(place) for place in places]


def test_a_buffer_is_filled_from_few_parts_at_a_time():
    order = Shuffled((100,) * 50, 0, buffer=200)
    for first in range(0, 5000, 200):
        touched = {order.pair(place) // 100 for place in range(first, first + 200)}
        assert len(touched) == 2
    starts = [order.pair(place) // 100 for place in range(0, 5000, 200)]
    assert starts != sorted(starts), "the parts are shuffled"


def test_a_buffer_shuffles_evenly():
    counts = torch.zeros(8, 8)
    for seed in range(2000):
        order = Shuffled((4, 4), seed, 8)
        for place in range(8):
            counts[place, order.pair(place)] += 1
    assert (counts / 2000 - 1 / 8).abs().max() < 5 * (1 / 8 * 7 / 8 / 2000) ** 0.5


def test_every_group_is_of_one_bucket_and_nothing_is_left_out():
    bucket = torch.tensor([0, 2, 2, 0, 1, 2, 2, 2, 0, 0, 2])
    order = ordered((11,), 5, 100, bucket, group=3)
    assert isinstance(order, Bucketed)
    steps = order.ends[-1]
    assert steps == 2 + 1 + 2
    for epoch in range(4):
        groups = [
            [order.pair((epoch * steps + step) * 3 + i) for i in range(3)] for step in range(steps)
        ]
        assert all(len({int(bucket[pair]) for pair in group}) == 1 for group in groups)
        assert {pair for group in groups for pair in group} == set(range(11))
        for group in groups:
            assert len(set(group)) == 3 or bucket[group[0]] == 1, "only a lone pair is repeated"


def test_one_bucket_needs_no_groups():
    order = ordered((4, 4), 0, 8, torch.zeros(8), 3)
    assert isinstance(order, Shuffled)
    assert order.parts == (4, 4)
