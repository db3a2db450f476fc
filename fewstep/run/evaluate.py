"""`fewstep evaluate`: students beside their teacher from the same noises, by a protocol."""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from fewstep.bundled.captions import describe
from fewstep.bundled.features import load_feature_network
from fewstep.bundled.scenes import render, sample_scene
from fewstep.errors import UserError
from fewstep.evaluation import METRICS
from fewstep.evaluation.frechet import Gaussian
from fewstep.evaluation.headline import lead, match
from fewstep.evaluation.intervals import Interval, Values, pooled, proportion
from fewstep.evaluation.prompt_accuracy import Verdict, all_right, by_attribute, verdicts
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.results import SEVERAL, Results, Row, load, save
from fewstep.evaluation.terminal import summary
from fewstep.files import check_writable
from fewstep.run.compare import save_comparison
from fewstep.run.contestants import Contestant, Field
from fewstep.run.gallery import Gallery, Made, paint_all
from fewstep.run.progress import progress_bar
from fewstep.sampling.painter import TEACHER_STEPS

PROTOCOLS = {"bundled": 2000}
"""The protocols, and how many prompts each takes."""

PROMPT_SEED, REFERENCE_SEED = 1_000_003, 1_000_033  # no pool of training scenes has these
NUM_REFERENCES = 5000
NUM_SHOWN = 8
STUDENT_STEPS = (1, 2, 4, 8)
FEWER_TEACHER_STEPS = (8, 4)


@dataclass(frozen=True)
class Measured:
    """One contestant's numbers, one a picture, from which intervals and pooled rows are made."""

    contestant: Contestant
    values: dict[str, Values]
    verdicts: list[Verdict]
    seconds: Interval


def held_out_prompts(num: int) -> list[str]:
    """Return captions of scenes that no training set holds."""
    prompts = []
    for i in range(num):
        rng = np.random.default_rng([PROMPT_SEED, i])
        prompts.append(describe(sample_scene(rng), rng))
    return prompts


@torch.no_grad()
def picture_features(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the bundled feature network's features [n, d] of pictures [n, H, W, 3]."""
    network = load_feature_network()
    batches = torch.from_numpy(pictures).permute(0, 3, 1, 2).split(250)
    return torch.cat([network(batch) for batch in batches]).numpy()


def reference() -> Gaussian:
    """Return the Gaussian of the features of real renderings."""
    scenes = (
        sample_scene(np.random.default_rng([REFERENCE_SEED, i])) for i in range(NUM_REFERENCES)
    )
    return Gaussian.fit(picture_features(np.stack([render(scene) for scene in scenes])))


def evaluate_sources(
    sources: Sequence[str],
    protocol: str,
    out: Path,
    num_prompts: int | None = None,
    student_steps: Sequence[int] = STUDENT_STEPS,
) -> Path:
    """Measure every source and its teacher; write and return `out/results.json`.

    Pictures are kept in `out/pictures`, so that an interrupted evaluation continues.

    Raises:
        UserError: if a source, the protocol or the number of prompts cannot be used.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    num = PROTOCOLS[protocol] if num_prompts is None else num_prompts
    smallest = METRICS["frechet"].smallest_n
    if num < smallest:
        raise UserError(f"--num-prompts is {num}; the Fréchet distance needs {smallest} or more")
    check_writable(out, needed_bytes=num * 20_000)
    field = Field.open(sources)
    if field.base != "bundled":
        raise UserError(
            f"protocol 'bundled' reads pictures of the bundled world, and {field.base} is another "
            "model; use fewstep compare"
        )
    check_distinct(field)
    prompts = held_out_prompts(num)
    gallery = Gallery(out / "pictures", prompts, field.resolution)
    contestants = line_up(field, student_steps)

    with progress_bar() as bar:
        made = paint_all(contestants, gallery, bar)
        task = bar.add_task("measuring", total=len(contestants), note="")
        measured = measure(made, prompts, lambda: bar.advance(task))

    results = Results(
        protocol=f"{protocol}, {num} held-out prompts, {NUM_REFERENCES} reference renderings",
        command=" ".join(["fewstep", *sys.argv[1:]]),
        commit=commit(),
        machine=machine(),
        rows=(*map(as_row, measured), *pooled_rows(measured)),
    )
    save(results, out / "results.json")
    shown = {c: m.pictures[:NUM_SHOWN] for c, m in made.items() if is_shown(c, field)}
    save_comparison(out, prompts[:NUM_SHOWN], shown)
    return out / "results.json"


def print_results(path: Path) -> None:
    """Show results in the terminal: the table, and how much faster the best student is."""
    console, results = Console(), load(path)
    console.print(summary(results))
    if found := match(results.rows):
        console.print(lead(found), highlight=False)


def check_distinct(field: Field) -> None:
    """Refuse the same training twice: pooled, it would count as two.

    Raises:
        UserError: naming the sources.
    """
    known: dict[tuple[str, int | None], str] = {}
    for student in field.students:
        other = known.setdefault((student.settings, student.seed), student.source)
        if other != student.source:
            raise UserError(
                f"{other} and {student.source} have the same settings and the same seed "
                f"{student.seed}; evaluate one of them"
            )


def is_shown(contestant: Contestant, field: Field) -> bool:
    """Whether a contestant has a column: the teacher in 50 and 4 steps, students in their own."""
    if contestant.method == "teacher":
        return contestant in (field.teacher(), field.teacher(4))
    return contestant in [field.student(student) for student in field.students]


def line_up(field: Field, student_steps: Sequence[int]) -> list[Contestant]:
    """Return the teacher at several numbers of steps, and each student at those it knows."""
    teachers = [field.teacher(steps) for steps in (TEACHER_STEPS, *FEWER_TEACHER_STEPS)]
    students = [
        field.student(student, steps)
        for student in field.students
        for steps in sorted(
            {*student_steps, student.contract.default_num_steps}
            & set(map(int, student.contract.grid.sampling_timesteps))
        )
    ]
    return [*teachers, field.teacher(guided=False), *students]


def measure(
    made: dict[Contestant, Made], prompts: Sequence[str], advance: Callable[[], None]
) -> list[Measured]:
    """Judge every contestant's pictures, and compare them with the first one's: the teacher's.

    Students that learnt from data alone are compared with the unguided teacher as well.
    """
    real = reference()
    measured: dict[Contestant, Measured] = {}
    for contestant, own in made.items():
        judged = verdicts(own.pictures, prompts)
        values = {
            "prompt_accuracy": all_right(judged),
            "frechet": METRICS["frechet"].per_picture(picture_features(own.pictures), real),
        }
        measured[contestant] = Measured(contestant, values, judged, own.seconds_per_image)
        advance()
    truth, *others = made
    plain = next(c for c in made if c.method == "teacher" and c.calls == c.steps)
    for contestant in others:
        values = measured[contestant].values
        values |= beside_teacher(contestant, truth, made, measured)
        if not contestant.knows_teacher:
            told = beside_teacher(contestant, plain, made, measured)
            values |= {f"{n}_unguided": v for n, v in told.items() if f"{n}_unguided" in METRICS}
    return list(measured.values())


def beside_teacher(
    contestant: Contestant,
    teacher: Contestant,
    made: dict[Contestant, Made],
    measured: dict[Contestant, Measured],
) -> dict[str, Values]:
    """Return the differences to a teacher, paired by prompt and starting noise."""
    mine, theirs = measured[contestant].values, measured[teacher].values
    values = {
        f"{name}_difference": mine[name] - theirs[name] for name in ("prompt_accuracy", "frechet")
    }
    if contestant.keeps_noise:
        own, truth = made[contestant], made[teacher]
        values["same_noise_rmse"] = METRICS["same_noise_rmse"].per_picture(
            own.pictures, truth.pictures
        )
        values["latent_rmse"] = METRICS["latent_rmse"].per_picture(own.latents, truth.latents)
    return values


def as_row(measured: Measured) -> Row:
    """Put intervals around one contestant's numbers."""
    contestant = measured.contestant
    metrics = {name: METRICS[name].interval(values) for name, values in measured.values.items()}
    metrics |= {name: proportion(held) for name, held in by_kind(measured.verdicts).items()}
    metrics["seconds_per_image"] = measured.seconds
    return Row(
        contestant.source, contestant.method, contestant.steps, contestant.calls,
        contestant.seed, metrics,
    )  # fmt: skip


def by_kind(judged: list[Verdict]) -> dict[str, Values]:
    return {f"prompt_accuracy.{kind}": held for kind, held in by_attribute(judged).items()}


def pooled_rows(measured: Sequence[Measured]) -> list[Row]:
    """Return a row for each number of steps that trainings of one setting share."""
    groups: dict[tuple[str, str, int], list[Measured]] = defaultdict(list)
    for one in measured:
        who = one.contestant
        if who.method != "teacher":
            groups[who.method, who.settings, who.steps].append(one)
    return [pooled_row(group) for group in groups.values() if len(group) > 1]


def pooled_row(group: Sequence[Measured]) -> Row:
    """Return one row for several trainings; its source names them all."""
    numbers = [one.values | by_kind(one.verdicts) for one in group]
    metrics = {name: pooled(np.stack([each[name] for each in numbers])) for name in numbers[0]}
    metrics["seconds_per_image"] = group[0].seconds
    first = group[0].contestant
    sources = SEVERAL.join(one.contestant.source for one in group)
    return Row(sources, first.method, first.steps, first.calls, None, metrics)
