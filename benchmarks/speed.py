"""How fast a training step is: fewstep beside the reference recipe, and what each lever gives.

    python -m benchmarks.speed --model tiny --threads 1 -o benchmarks/results/train_step.json
    python -m benchmarks.speed --model sd15 --precision bf16 --resolution 256 \\
        --batch-sizes 1 --rounds 5 --steps 1 --threads 1 \\
        --designs reference "reference, checkpointing" fewstep \\
        -o benchmarks/results/train_step_sd15.json
    python -m benchmarks.speed --model sd15 --device cuda --precision bf16 --batch-sizes 1 4 16 \\
        -o benchmarks/results/train_step_gpu.json

Every design is timed in turns with the first one (A B A B, medians over rounds), after it was seen
to compute the same gradient. Beside the results file a plot of the ladder is drawn.
"""

from multiprocessing.connection import Connection

from benchmarks.speed_designs import DESIGNS, HALF, WHOLE, build
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import Probe, Setting


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Build a design and take optimiser steps; its outcome is the gradient at a probe."""
    setting.begin()
    design = build(name, setting)
    gradients = design.gradients(Probe.of(setting))
    serve(pipe, setting, name, design.step, gradients, design.static_bytes)


if __name__ == "__main__":
    asked = arguments(__doc__, DESIGNS, batch_sizes=[2], steps=5)
    alike = HALF if asked.precision == "fp32" else WHOLE
    fitting = [name for name in DESIGNS if name not in alike]
    print(f"wrote {measure(asked, work, asked.designs or fitting)} and its plot")
