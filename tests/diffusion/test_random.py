import math

import pytest
import torch

from fewstep.diffusion.grid import Grid
from fewstep.diffusion.random import Draw, generator


def numbers(*key: int | str) -> list[float]:
    return torch.rand(4, generator=generator(*key)).tolist()


def test_a_generator_is_a_function_of_its_key():
    assert numbers(3, 14, "noise") == numbers(3, 14, "noise")


def test_generators_of_different_keys_differ():
    keys = [(), (0,), (1,), (0, 1), (1, 0), (0, 0), (10,), ("1", 0), ("10",), ("1", "0"), (-1,)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)


def test_no_draw_reads_or_moves_the_global_random_state():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), Draw.keyed(5, range(3)).noise_like(torch.zeros(3, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Draw.keyed(5, range(3)).noise_like(torch.zeros(3, 2)), first)


def test_a_draw_does_not_depend_on_how_its_batch_is_split():
    def draws(samples: range) -> list[torch.Tensor]:
        draw = Draw.keyed(7, samples)
        return [
            *draw.neighbours(Grid(40).timesteps),
            draw.noise_like(torch.zeros(len(samples), 4, 3)),
        ]

    whole = draws(range(100, 108))
    parts = [draws(part) for part in (range(100, 101), range(101, 105), range(105, 108))]
    for i, together in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), together)


def test_noise_of_different_purposes_differs():
    zeros = torch.zeros(4, 100)
    train, generate = (
        Draw.keyed(0, range(4), purpose=p).noise_like(zeros) for p in ("train", "paint")
    )
    assert (train - generate).abs().mean() > 0.5
    assert torch.equal(Draw.keyed(0, range(4)).noise_like(zeros), train)


def test_the_samples_of_a_batch_have_noise_of_their_own():
    noise = Draw.keyed(0, range(50)).noise_like(torch.zeros(50, 400))
    correlation = torch.corrcoef(noise) - torch.eye(50)
    assert correlation.abs().max() < 5 / math.sqrt(400)


def test_noise_is_standard_normal_in_the_dtype_of_its_model():
    noise = Draw.keyed(0, range(100)).noise_like(torch.zeros(100, 1000))
    assert noise.mean().item() == pytest.approx(0, abs=5 / math.sqrt(1e5))
    assert noise.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 1e5))
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / 1e5))
    half = Draw.keyed(0, range(100)).noise_like(torch.zeros(100, 1000, dtype=torch.bfloat16))
    assert torch.equal(half, noise.bfloat16())


def test_drawing_again_from_the_same_draw_gives_fresh_noise():
    draw, x = Draw.keyed(0, range(2)), torch.zeros(2, 100)
    assert (draw.noise_like(x) - draw.noise_like(x)).abs().mean() > 0.5


def test_uniform_numbers_fill_the_unit_interval_evenly():
    values = Draw.keyed(1, range(5000)).uniform()
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean().item() == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / 5000))
    assert values.square().mean().item() == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / 5000))


def test_neighbours_are_a_knot_and_the_one_below_it():
    grid = Grid(40).timesteps
    t, s = Draw.keyed(2, range(500)).neighbours(grid)
    assert all(
        grid[grid.index(high) - 1] == low for high, low in zip(t.tolist(), s.tolist(), strict=True)
    )


def test_neighbours_are_alike_likely_over_all_knots_but_clean():
    """Pearson's chi-square of 39 degrees of freedom stays below its mean by 5 deviations."""
    grid, num = Grid(40).timesteps, 8000
    t, _ = Draw.keyed(3, range(num)).neighbours(grid)
    counts = torch.tensor([(t == knot).sum() for knot in grid[1:]])
    assert counts.sum() == num
    expected = num / 40
    assert ((counts - expected) ** 2 / expected).sum() < 39 + 5 * math.sqrt(2 * 39)


def test_the_only_neighbours_of_one_step_are_its_ends():
    t, s = Draw.keyed(0, range(20)).neighbours(Grid(1).timesteps)
    assert t.eq(999).all()
    assert s.eq(-1).all()
