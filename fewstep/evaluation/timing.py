"""Seconds and memory an image of each model: they take turns, so that a busy machine slows all.

Each image is generated alone, from prompt to decoded pixels, as a user does it.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from fewstep.console import Steps, TaskProgress
from fewstep.evaluation.intervals import Interval, mean_of_few
from fewstep.evaluation.measure import Costs
from fewstep.evaluation.provenance import machine
from fewstep.evaluation.samples import SampleCache
from fewstep.files import write_file
from fewstep.student.generate import ImageSampler
from fewstep.student.seeds import image_generators

ROUNDS = 5


def costs_in_turns(samples: SampleCache) -> Steps[Costs]:
    """Return `seconds_per_image`, and on a GPU `peak_memory` in bytes, of every model.

    They are kept on disk for these models together, on this machine: only costs measured in turns
    can be compared.
    """
    models, prompts = samples.models, list(samples.prompts[:ROUNDS])
    key = repr([machine(), [model.identity for model in models], prompts, samples.resolution])
    path = samples.folder / f"costs-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not path.exists():
        costs = yield from _measured(samples, prompts)
        write_file(path, json.dumps(costs))
    stored = zip(models, json.loads(path.read_text()), strict=True)
    return {m: {name: Interval(**cost) for name, cost in costs.items()} for m, costs in stored}


def _measured(samples: SampleCache, prompts: Sequence[str]) -> Steps[list[dict[str, dict]]]:
    """Generate each prompt by every model before the next prompt."""
    models = samples.models
    seconds: list[list[float]] = [[] for _ in models]
    memory = [0] * len(models)
    turns = [(number, place) for number in range(len(prompts)) for place in range(len(models))]
    for done, (number, place) in enumerate(turns, 1):
        sampler = warmed_up(models[place].sampler(), samples.resolution)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        clock = time.perf_counter()
        generators = samples.generators(range(number, number + 1))
        latents = sampler.latents([prompts[number]], generators, samples.resolution)
        sampler.decode(latents)
        seconds[place].append(time.perf_counter() - clock)
        if torch.cuda.is_available():
            memory[place] = max(memory[place], torch.cuda.max_memory_allocated())
        yield TaskProgress("timing", done, len(turns))
    return [
        {"seconds_per_image": asdict(mean_of_few(times))}
        | ({"peak_memory": asdict(Interval(peak, None, None, len(prompts)))} if peak else {})
        for times, peak in zip(seconds, memory, strict=True)
    ]


def warmed_up(sampler: ImageSampler, resolution: int) -> ImageSampler:
    """Return the sampler after one step that is not timed: a network's first is always slower."""
    last = replace(sampler, timesteps=sampler.timesteps[-1:])
    last.decode(last.latents([""], image_generators(0, 1), resolution))
    return sampler
