"""How much of an image a caption leaves open: few exact DDIM steps against many, no network.

The denoiser of a finite set of images is known in closed form. Where a caption determines the
image, its trajectories are nearly straight and four plain steps are enough; a data set that shows
what a distilled model gains needs curved ones.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from math import perm
from pathlib import Path

import numpy as np

from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.world.claims import check_claims
from fewstep.world.scenes import (
    COUNT_SHARES,
    FRAME,
    Scene,
    place,
    render,
    sample_pairs,
    sample_scene,
)
from fewstep.world.sentences import claims

CAPTIONS = {
    "full": "a big red heart above a small blue star on a white background",
    "medium": "a red heart above a blue star",
    "relation": "a heart above a star",
    "count": "two red stars",
    "minimal": "a star",
}
COMMAND = "python benchmarks/openness.py"
RESULTS = Path(__file__).parent / "results" / "openness.json"
ALPHAS_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def scenes_of(caption: str, rng: np.random.Generator) -> Iterator[Scene]:
    """Yield scenes that a caption is true of; the rest is drawn as in the bundled world."""
    parsed = claims(caption)
    slots = [mention for mention in parsed.mentions for _ in range(mention.count)]
    counts = [n for n in (1, 2, 3) if n >= len(slots)]
    ways = np.array([COUNT_SHARES[n - 1] * perm(n, len(slots)) for n in counts])
    while True:
        drawn = sample_pairs(rng, int(rng.choice(counts, p=ways / ways.sum())), held_back=False)
        named = [(mention.shape, mention.colour) for mention in slots]
        pairs = [(s or d, c or e) for (s, c), (d, e) in zip(named, drawn, strict=False)]
        things = place(rng, pairs + drawn[len(slots) :])
        if things is not None:
            other = sample_scene(rng)
            background = parsed.background or other.background
            scene = replace(other, things=things, background=background)
            if all(check_claims(parsed, scene).values()):
                yield scene


def latents_of(caption: str, count: int, rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Return `count` average-pooled images of a caption, of unit variance, flat."""
    block = FRAME // side
    images = [render(scene) for scene in islice(scenes_of(caption, rng), count)]
    pooled = np.stack(images).reshape(count, side, block, side, block, 3).mean((2, 4))
    data = (pooled.reshape(count, -1) / 127.5 - 1).astype(np.float32)
    return data / data.std()


def exact_noise(data: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
    """Return the best possible noise prediction for a finite set of images."""
    squares = (data**2).sum(1)

    def predict(x_t: np.ndarray, alpha_bar: float) -> np.ndarray:
        scale, variance = np.sqrt(alpha_bar), 1 - alpha_bar
        score = (scale * x_t @ data.T - 0.5 * alpha_bar * squares) / variance
        weights = np.exp(score - score.max(1, keepdims=True))
        x_0 = weights @ data / weights.sum(1, keepdims=True)
        return (x_t - scale * x_0) / np.sqrt(variance)

    return predict


def ddim(predict: Callable, noise: np.ndarray, steps: int) -> np.ndarray:
    """Sample by `steps` DDIM steps with trailing timesteps."""
    timesteps = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
    levels = [*ALPHAS_BAR[timesteps], 1.0]
    x = noise
    for t, s in pairwise(levels):
        eps = predict(x, t)
        x_0 = (x - np.sqrt(1 - t) * eps) / np.sqrt(t)
        x = np.sqrt(s) * x_0 + np.sqrt(1 - s) * eps
    return x


def openness(caption: str, count: int = 3000, samples: int = 128) -> dict[str, float]:
    """Return the RMS error of 4 and of 50 steps against 200, in units of the data's RMS."""
    rng = np.random.default_rng(0)
    data = latents_of(caption, count, rng)
    predict = exact_noise(data)
    noise = rng.standard_normal((samples, data.shape[1]), np.float32)
    best = ddim(predict, noise, 200)
    rms = np.sqrt((data**2).mean())
    return {
        f"{steps} against 200": round(
            float(np.sqrt(((ddim(predict, noise, steps) - best) ** 2).mean()) / rms), 3
        )
        for steps in (4, 50)
    }


if __name__ == "__main__":
    found = {caption: openness(caption) for caption in CAPTIONS.values()}
    results = {"command": COMMAND, "commit": commit(), "machine": machine(), "captions": found}
    write_file(RESULTS, json.dumps(results, indent=2) + "\n")
    print(f"wrote {RESULTS}")
