"""What an update of trajectory matching costs beside a step of CD with as many image calls.

    python -m benchmarks.speed_matching --model tiny --batch-sizes 32 --threads 1 \\
        -o benchmarks/results/matching_step.json

A batch size is the number of image calls that carry gradient: CD takes as many images, trajectory
matching a quarter as many prompts, each with four jumps. An update includes its two fake updates.
Designs take turns with CD (A B A B), and the peak memory is each process's own. `speed_up` is CD's
time over the update's.
"""

from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.speed_own import Fewstep, NoiseBatches, settings
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import Setting, fill_lora, tensor_bytes
from fewstep.config import FakeSettings
from fewstep.methods.trajectory_matching import TrajectoryMatching
from fewstep.training.distill import steps_of
from fewstep.training.setup import build

ANCHORS = {"trajectory matching": 0.0, "trajectory matching, anchor": 0.25}
DESIGNS = ["CD", *ANCHORS]
"""The names of all designs; the first is the baseline."""


class Matching:
    """Trajectory matching as it trains, its fake updates included."""

    def __init__(self, setting: Setting, anchor: float) -> None:
        method = TrajectoryMatching(anchor=anchor)
        config = settings(setting, setting.precision, "trajectory-matching")
        prompts = setting.batch_size // method.num_segments
        config = replace(
            config,
            method=dict(config.method) | {"anchor": anchor},
            fake=FakeSettings(updates=2, warmup=0),
            train=replace(config.train, batch_size=prompts),
        )
        self.setting = setting
        self.parts = parts = build(config, Path(setting.folder), setting.device)
        batches = NoiseBatches.of(parts)
        parts.offload()
        on_gpu = setting.device == "cuda"
        self.networks = [parts.network_for_training(),
                         *(() if on_gpu else parts.family.vae_and_text_encoder)]  # fmt: skip
        for weights in (parts.roles.trained, parts.roles.averaged, parts.roles.fake_trained):
            fill_lora(weights)
        self.steps = steps_of(parts, batches)

    def step(self) -> None:
        next(self.steps)

    def static_bytes(self) -> int:
        """Return the memory that does not depend on the batch, of both adapters."""
        state, fake = self.parts.state, self.parts.state.fake
        assert fake is not None
        of_fake = tensor_bytes((), fake.optimizer, fake.trained)
        return tensor_bytes(self.networks, state.optimizer, state.trained) + of_fake


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Build a design and take updates; there is no gradient to compare."""
    setting.begin()
    design = Matching(setting, ANCHORS[name]) if name in ANCHORS else Fewstep(setting)
    serve(pipe, setting, name, design.step, {}, design.static_bytes)


if __name__ == "__main__":
    args = arguments(__doc__, DESIGNS, batch_sizes=[32], steps=3)
    print(f"wrote {measure(args, work, args.designs or DESIGNS)} and its plot")
