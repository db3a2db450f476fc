"""What a small decoder of one's own costs and gives on the bundled world.

    python -m benchmarks.tiny_decoder RUN -o benchmarks/results/tiny_decoder.json
    python -m benchmarks.tiny_decoder RUN --time -o benchmarks/results/tiny_decoder_time.json

RUN is a bundled student of 4 steps, as `python benchmarks/students.py` or `fewstep distill` trains
it. Its decoder is trained first, by `fewstep distill-decoder`, where it has none. PSNR to the VAE's
own images is taken of latents of scenes that nothing was trained on, and of the student's; the
parser reads the student's images by both decoders from the same latents. Times are of the decoder
alone, in turns: on a machine that does nothing else.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed_turns import median
from fewstep.config import load_config
from fewstep.console import show_progress
from fewstep.data.pairs import BundledPairs
from fewstep.evaluation.intervals import Interval, mean, proportion
from fewstep.evaluation.metrics.prompt_accuracy import all_right, verdicts
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.models.tiny_decoder import CONTRACT, TINY_FOLDER
from fewstep.student.generate import BATCH, ImageSampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.seeds import numbered_generators
from fewstep.training.decoder import distill_decoder

DATA_SEED = 17
"""Of scenes that no bundled config is trained on."""
SECONDS = "decoder.core-seconds.json"
"""Beside the run's decoder: the processor seconds of its training, encoding the data included."""
Samplers = tuple[ImageSampler, ImageSampler]
"""The student with the VAE's decoder and with the small one."""


def train(run: Path) -> float:
    """Train the run's decoder where it has none; return the processor seconds that it took."""
    if not (run / SECONDS).is_file():
        clock = time.process_time()
        show_progress(distill_decoder(load_config(run / "config.toml"), run))
        write_file(run / SECONDS, json.dumps(round(time.process_time() - clock, 1)))
    return json.loads((run / SECONDS).read_text())


def samplers(run: Path) -> Samplers:
    """Return the student with the VAE's decoder and with the small one."""
    sampler = FewStepPipeline.from_pretrained(run).sampler()
    tiny = FewStepPipeline.from_pretrained(run, decoder="tiny").student[0]
    return sampler, replace(sampler, family=tiny)


def psnr(of: Tensor, to: Tensor) -> Interval:
    """Return the mean PSNR of images [batch, H, W, 3] in uint8 to others, in decibels."""
    error = (of.double() - to.double()).square().mean((1, 2, 3))
    return mean((20 * np.log10(255) - 10 * error.log10()).numpy())


def quality(both: Samplers, num_prompts: int, num_scenes: int) -> dict[str, dict]:
    """Return PSNR and the parser's verdicts; the difference is paired, tiny less full."""
    full, tiny = both
    family, side = full.family, full.family.default_resolution
    pairs = BundledPairs(num_scenes, side, DATA_SEED)
    scenes = torch.cat([family.encode_images(pairs.image(i)[None])[0] for i in range(num_scenes)])
    prompts = held_out_prompts(num_prompts)
    latents = full.latents(prompts, numbered_generators(0, range(num_prompts)), side)
    images = [sampler.decode(latents) for sampler in both]
    right = [all_right(verdicts(decoded.numpy(), prompts)) for decoded in images]
    values = {
        "psnr_of_held_out_scenes": psnr(tiny.decode(scenes), full.decode(scenes)),
        "psnr_of_the_student": psnr(images[1], images[0]),
        "prompt_accuracy_full": proportion(right[0]),
        "prompt_accuracy_tiny": proportion(right[1]),
        "prompt_accuracy_difference": mean(right[1] - right[0]),
        "same_verdict": proportion(right[1] == right[0]),
    }
    return {name: asdict(interval) for name, interval in values.items()}


@torch.no_grad()
def decode_times(both: Samplers, rounds: int) -> list[dict]:
    """Return how many times as fast the small decoder is, by batch; both take turns in a round."""
    rows = []
    for batch_size in (1, 16):
        family = both[0].family
        shape = family.latent_shape(family.default_resolution)
        latents = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))
        seconds: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                clock = time.perf_counter()
                for _ in range(max(1, BATCH // batch_size)):
                    both[which].family.decode(latents)
                if number:  # the first round is a warm-up
                    seconds[which].append(time.perf_counter() - clock)
        ratio = np.divide(*seconds)
        rows.append({"batch_size": batch_size, "times_as_fast": median(ratio)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num-prompts", type=int, default=2000)
    parser.add_argument("--num-scenes", type=int, default=500)
    parser.add_argument("--time", action="store_true", help="only the decoders' times")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds, both = train(args.run), samplers(args.run)
    results = {
        "command": " ".join(["python", "-m", "benchmarks.tiny_decoder", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "decoder": json.loads((args.run / TINY_FOLDER / CONTRACT).read_text())["train"],
    }
    if args.time:
        results["rows"] = decode_times(both, args.rounds)
    else:
        results["core_seconds"] = seconds
        results |= quality(both, args.num_prompts, args.num_scenes)
    write_file(args.out, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
