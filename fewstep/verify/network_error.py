"""Learned students against the exact flow: what the solver or the objective costs, and the network.

Each seed has its own training and its own starting noise; intervals are over seeds.
"""

from dataclasses import asdict, dataclass

from fewstep.diffusion.grid import boundaries, knots
from fewstep.methods import METHODS, Method
from fewstep.types import Latents
from fewstep.verify.effort import Effort, Track
from fewstep.verify.exam import Exam
from fewstep.verify.fixed_points import Training, fixed_point, interpolate
from fewstep.verify.students import StudentDenoiser
from fewstep.verify.training import School
from fewstep.verify.world import LINE, PLANE, SCHEDULE, denoiser_on

WORLDS = {"plane": PLANE, "line": LINE}


@dataclass(frozen=True)
class Lesson:
    """One training, and with how many calls its students are examined."""

    world: str
    guidance_scale: float
    method: str
    calls: tuple[int, ...]

    def make(self) -> Method:
        """Return the method at its defaults; CT with the squared error, whose bias can vanish."""
        settings = {} if METHODS[self.method].has_teacher else {"distance": "squared-error"}
        return METHODS[self.method](**settings)


LESSONS = (
    Lesson("plane", 1.0, "cd", (1, 4)),
    Lesson("plane", 1.0, "multi-boundary-cd", (4,)),
    Lesson("plane", 1.0, "ct", (1, 4)),
    Lesson("plane", 1.0, "multi-boundary-ct", (4,)),
    Lesson("plane", 3.0, "cd", (1, 4)),
    Lesson("plane", 3.0, "multi-boundary-cd", (4,)),
    Lesson("line", 1.0, "ct", (1,)),
    Lesson("line", 1.0, "multi-boundary-ct", (4,)),
)
TEACHER_CALLS = (1, 4, 40)


def measure_networks(effort: Effort, track: Track) -> list[dict]:
    """Return a row for each way of sampling each world: the teacher's DDIM and the students."""
    rows = []
    for world, mixture in WORLDS.items():
        school = School(mixture, effort, track)
        base = school.pretrained(denoiser_on(SCHEDULE, mixture))
        lessons = [lesson for lesson in LESSONS if lesson.world == world]
        for guidance_scale in sorted({lesson.guidance_scale for lesson in lessons}):
            exam = Exam.of(mixture, guidance_scale, effort)
            rows += [teacher_row(world, exam, calls) for calls in TEACHER_CALLS]
            for lesson in lessons:
                if lesson.guidance_scale == guidance_scale:
                    rows += student_rows(lesson, exam, school, base)
    return rows


def teacher_row(world: str, exam: Exam, calls: int) -> dict:
    """Measure the exact teacher, guided, in plain DDIM steps: all of its error is the solver's."""
    points = exam.ddim(calls)
    return {
        "world": world,
        "guidance_scale": exam.guidance_scale,
        "method": "teacher",
        "calls": calls,
        "sampler": "deterministic",
        **errors(exam, points),
    }


def student_rows(lesson: Lesson, exam: Exam, school: School, base: StudentDenoiser) -> list[dict]:
    """Train one method, and measure its students with each number of calls."""
    method = lesson.make()
    teacher = denoiser_on(SCHEDULE, exam.mixture, exam.guidance_scale)
    student = school.distilled(base, method, teacher)
    rows = []
    for calls in lesson.calls:
        sampler = "deterministic" if calls == 1 else method.sampler
        points = exam.sample(student, method.sampling_timesteps(calls), sampler)
        row = {
            "world": lesson.world,
            "guidance_scale": lesson.guidance_scale,
            "method": lesson.method,
            "calls": calls,
            "sampler": sampler,
            **errors(exam, points),
        }
        goal = aim(lesson, method, exam) if sampler == "deterministic" else None
        if goal is not None:
            row["objective"] = asdict(exam.same_noise(goal, exam.truth))
            row["network"] = asdict(exam.same_noise(points, goal))
        rows.append(row)
    return rows


def errors(exam: Exam, points: Latents) -> dict:
    """Return how far samples are from the exact flow's, point by point and as a distribution."""
    return {
        "same_noise": asdict(exam.same_noise(points, exam.truth)),
        "energy": asdict(exam.energy(points)),
    }


def aim(lesson: Lesson, method: Method, exam: Exam) -> Latents | None:
    """Return where the fixed point of the student's objective lands, where that is known.

    For CD, in one segment or in many, that is where DDIM with all solver steps does; CT's is
    computed on the line.
    """
    if method.has_teacher:
        return exam.ddim(method.num_solver_steps)
    if lesson.world != "line":
        return None
    num_segments = getattr(method, "num_segments", 1)
    ends = boundaries(num_segments, method.num_solver_steps)
    landing = fixed_point(Training(LINE), SCHEDULE, knots(method.num_solver_steps), ends)
    return interpolate(landing, exam.x)
