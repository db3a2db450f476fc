"""What an image costs each contestant: they take turns, so that what slows the machine slows all.

An image is generated alone, as a user asks for one: prompt, network calls and decoding.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from rich.progress import Progress

from fewstep.evaluation.generate import Gallery
from fewstep.evaluation.intervals import Interval, mean_of_few
from fewstep.evaluation.models import Contestant
from fewstep.evaluation.provenance import machine
from fewstep.files import kept
from fewstep.student.generate import ImageSampler

ROUNDS = 5
Costs = Mapping[str, Interval]


def costs_in_turns(
    contestants: Sequence[Contestant], gallery: Gallery, bar: Progress
) -> dict[Contestant, Costs]:
    """Return `seconds_per_image`, and on a GPU `peak_memory`, of every contestant.

    They are kept on disk for these contestants together, on this machine: costs that were not
    measured side by side are not compared.
    """
    prompts = list(gallery.prompts[:ROUNDS])
    key = repr([machine(), [c.identity for c in contestants], prompts, gallery.resolution])
    path = gallery.folder / f"costs-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def measure() -> list[dict[str, dict]]:
        costs = measured_in_turns(contestants, gallery, prompts, bar)
        return [{name: asdict(cost) for name, cost in each.items()} for each in costs]

    return {
        contestant: {name: Interval(**cost) for name, cost in each.items()}
        for contestant, each in zip(contestants, kept(path, measure), strict=True)
    }


def measured_in_turns(
    contestants: Sequence[Contestant], gallery: Gallery, prompts: Sequence[str], bar: Progress
) -> list[Costs]:
    """Let the contestants generate the prompts one after another, each prompt by all of them."""
    task = bar.add_task("timing", total=len(prompts) * len(contestants), note="")
    seconds: list[list[float]] = [[] for _ in contestants]
    memory = [0] * len(contestants)
    for number, prompt in enumerate(prompts):
        for place, contestant in enumerate(contestants):
            sampler = warmed_up(contestant.sampler(), gallery.resolution)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            clock = time.perf_counter()
            latents = sampler.latents([prompt], gallery.seed, gallery.resolution, [number])
            sampler.decode(latents)
            seconds[place].append(time.perf_counter() - clock)
            if torch.cuda.is_available():
                memory[place] = max(memory[place], torch.cuda.max_memory_allocated())
            bar.advance(task)
    return [
        {"seconds_per_image": mean_of_times(times)}
        | ({"peak_memory": Interval(peak, peak, peak, len(prompts))} if peak else {})
        for times, peak in zip(seconds, memory, strict=True)
    ]


def warmed_up(sampler: ImageSampler, resolution: int) -> ImageSampler:
    """Return the sampler after one call that nobody times: a network's first is always slower."""
    last = replace(sampler, timesteps=sampler.timesteps[-1:])
    last.decode(last.latents([""], seed=0, resolution=resolution))
    return sampler


def mean_of_times(seconds: Sequence[float]) -> Interval:
    """Return the mean; of too few, no more than its value is known."""
    if len(seconds) < ROUNDS:
        mean = sum(seconds) / len(seconds)
        return Interval(mean, mean, mean, len(seconds))
    return mean_of_few(seconds)
