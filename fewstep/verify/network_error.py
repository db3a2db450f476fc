"""Learned students against the exact flow: what the solver or the objective costs, and the network.

Each seed has its own training and its own starting noise; intervals are over seeds.
"""

from dataclasses import asdict, dataclass

from fewstep.methods import METHODS, Method
from fewstep.types import Latents
from fewstep.verify.effort import Effort, Track
from fewstep.verify.fixed_points import Training, fixed_point, interpolate
from fewstep.verify.held_out import HeldOut
from fewstep.verify.students import StudentDenoiser
from fewstep.verify.training import Trainer
from fewstep.verify.world import LINE, PLANE, SCHEDULE, denoiser_on

WORLDS = {"plane": PLANE, "line": LINE}


@dataclass(frozen=True)
class Setup:
    """One training, and with how many calls its students are measured."""

    world: str
    guidance_scale: float
    method: str
    calls: tuple[int, ...]


SETUPS = (
    Setup("plane", 1.0, "cd", (1, 4)),
    Setup("plane", 1.0, "multi-boundary-cd", (4,)),
    Setup("plane", 1.0, "ct", (1, 4)),
    Setup("plane", 1.0, "multi-boundary-ct", (4,)),
    Setup("plane", 3.0, "cd", (1, 4)),
    Setup("plane", 3.0, "multi-boundary-cd", (4,)),
    Setup("line", 1.0, "ct", (1,)),
    Setup("line", 1.0, "multi-boundary-ct", (4,)),
)
TEACHER_CALLS = (1, 4, 40)


def measure_networks(effort: Effort, track: Track) -> list[dict]:
    """Return a row for each way of sampling each world: the teacher's DDIM and the students."""
    rows = []
    for world, mixture in WORLDS.items():
        trainer = Trainer(mixture, effort, track)
        base = trainer.pretrained(denoiser_on(SCHEDULE, mixture))
        setups = [setup for setup in SETUPS if setup.world == world]
        for guidance_scale in sorted({setup.guidance_scale for setup in setups}):
            held_out = HeldOut.of(mixture, guidance_scale, effort)
            rows += [teacher_row(world, held_out, calls) for calls in TEACHER_CALLS]
            for setup in setups:
                if setup.guidance_scale == guidance_scale:
                    rows += student_rows(setup, held_out, trainer, base)
    return rows


def teacher_row(world: str, held_out: HeldOut, calls: int) -> dict:
    """Measure the exact teacher, guided, in plain DDIM steps: all of its error is the solver's."""
    points = held_out.ddim(calls)
    return {
        "world": world,
        "guidance_scale": held_out.guidance_scale,
        "method": "teacher",
        "calls": calls,
        "sampler": "deterministic",
        **errors(held_out, points),
    }


def student_rows(
    setup: Setup, held_out: HeldOut, trainer: Trainer, base: StudentDenoiser
) -> list[dict]:
    """Train one method, and measure its students with each number of calls."""
    method = METHODS[setup.method]()
    teacher = denoiser_on(SCHEDULE, held_out.mixture, held_out.guidance_scale)
    student = trainer.distilled(base, method, teacher)
    rows = []
    for calls in setup.calls:
        sampler = "deterministic" if calls == 1 else method.sampler
        points = held_out.sample(student, method.sampling_timesteps(calls), sampler)
        row = {
            "world": setup.world,
            "guidance_scale": setup.guidance_scale,
            "method": setup.method,
            "calls": calls,
            "sampler": sampler,
            **errors(held_out, points),
        }
        goal = fixed_point_landing(setup, method, held_out) if sampler == "deterministic" else None
        if goal is not None:
            row["objective"] = asdict(held_out.same_noise(goal, held_out.truth))
            row["network"] = asdict(held_out.same_noise(points, goal))
        rows.append(row)
    return rows


def errors(held_out: HeldOut, points: Latents) -> dict:
    """Return how far samples are from the exact flow's, point by point and as a distribution."""
    return {
        "same_noise": asdict(held_out.same_noise(points, held_out.truth)),
        "energy": asdict(held_out.energy(points)),
    }


def fixed_point_landing(setup: Setup, method: Method, held_out: HeldOut) -> Latents | None:
    """Return where the fixed point of the student's objective lands, where that is known.

    For CD, in one segment or in many, that is where DDIM with all solver steps does; CT's is
    computed on the line.
    """
    if method.has_teacher:
        return held_out.ddim(method.grid().num_steps)
    if setup.world != "line":
        return None
    grid = method.grid()
    landing = fixed_point(Training(LINE), SCHEDULE, grid.timesteps, grid.boundaries)
    return interpolate(landing, held_out.x)
