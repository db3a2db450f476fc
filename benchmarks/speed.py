"""How fast a training step is: fewstep against the reference recipe, and the gain of each lever.

    python -m benchmarks.speed --model tiny --threads 1 -o benchmarks/results/train_step.json
    python -m benchmarks.speed --model sd15 --precision bf16 --resolution 256 \\
        --batch-sizes 1 --rounds 5 --steps 1 --threads 1 \\
        --designs reference fewstep \\
        -o benchmarks/results/train_step_sd15.json
    python -m benchmarks.speed --model sd15 --device cuda --precision bf16 --batch-sizes 1 4 16 \\
        -o benchmarks/results/train_step_gpu.json

Every design is timed in alternation with the first one (A B A B, medians over rounds), after a
check that it computes the same gradient. A plot of the ladder is written next to the results file.
"""

from multiprocessing.connection import Connection

from benchmarks.speed_designs import DESIGNS, HALF, WHOLE, build
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import Probe, Setting


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Build a design and take optimiser steps; its output is the gradient at a probe."""
    setting.begin()
    design = build(name, setting)
    gradients = design.gradients(Probe.of(setting))
    serve(pipe, setting, name, design.step, gradients, design.static_bytes)


if __name__ == "__main__":
    args = arguments(__doc__, DESIGNS, batch_sizes=[2], steps=5)
    same = HALF if args.precision == "fp32" else WHOLE
    distinct = [name for name in DESIGNS if name not in same]
    print(f"wrote {measure(args, work, args.designs or distinct)} and its plot")
