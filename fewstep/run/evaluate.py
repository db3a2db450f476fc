"""`fewstep evaluate`: students beside their teacher from the same noises, by a protocol."""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fewstep.bundled.captions import describe
from fewstep.bundled.features import load_feature_network
from fewstep.bundled.scenes import render, sample_scene
from fewstep.errors import UserError
from fewstep.evaluation import METRICS
from fewstep.evaluation.frechet import Gaussian
from fewstep.evaluation.intervals import Interval, Values, pooled, proportion
from fewstep.evaluation.prompt_accuracy import Verdict, all_right, by_attribute, verdicts
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.results import Results, Row, save
from fewstep.files import check_writable
from fewstep.run.compare import save_comparison
from fewstep.run.contestants import Contestant, Field
from fewstep.run.gallery import Gallery, Made
from fewstep.run.progress import progress_bar

PROTOCOLS = {"bundled": 2000}
"""The protocols, and how many prompts each takes."""

PROMPT_SEED, REFERENCE_SEED = 1_000_003, 1_000_033  # no pool of training scenes has these
NUM_REFERENCES = 5000
NUM_SHOWN = 8
STUDENT_STEPS = (1, 2, 4, 8)
TEACHER_STEPS = (50, 8, 4)


@dataclass(frozen=True)
class Measured:
    """One contestant's numbers, one a picture, from which intervals and pooled rows are made."""

    contestant: Contestant
    calls: int
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
    num = num_prompts or PROTOCOLS[protocol]
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
    prompts = held_out_prompts(num)
    gallery = Gallery(out / "pictures", prompts, field.resolution)
    contestants = line_up(field, student_steps)

    with progress_bar() as bar:
        task = bar.add_task("painting", total=len(contestants) * num, note="")
        made = {}
        for contestant in contestants:
            bar.update(task, note=f"{contestant.source}, {contestant.steps} steps")
            made[contestant] = gallery.of(contestant, lambda count: bar.advance(task, count))
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


def is_shown(contestant: Contestant, field: Field) -> bool:
    """Whether a contestant has a column in the picture: the teacher in 50 and 4 steps, and 4."""
    if contestant.method == "teacher":
        return contestant in (field.teacher(50), field.teacher(4))
    return contestant.steps == 4


def line_up(field: Field, student_steps: Sequence[int]) -> list[Contestant]:
    """Return the teacher at several numbers of steps, and each student at those it knows."""
    teachers = [field.teacher(steps) for steps in TEACHER_STEPS]
    students = [
        field.student(student, steps)
        for student in field.students
        for steps in student_steps
        if str(steps) in student.contract.grid.sampling_timesteps
    ]
    return [*teachers, field.teacher(guided=False), *students]


def measure(
    made: dict[Contestant, Made], prompts: Sequence[str], advance: Callable[[], None]
) -> list[Measured]:
    """Judge every contestant's pictures, and compare them with the first one's: the teacher's."""
    real = reference()
    truth: Made = next(iter(made.values()))
    judged_truth = all_right(verdicts(truth.pictures, prompts))
    measured = []
    for contestant, own in made.items():
        judged = verdicts(own.pictures, prompts)
        values = {
            "prompt_accuracy": all_right(judged),
            "frechet": METRICS["frechet"].per_picture(picture_features(own.pictures), real),
        }
        if own is not truth:
            values["prompt_accuracy_difference"] = values["prompt_accuracy"] - judged_truth
            if contestant.keeps_noise:
                for name, mine, theirs in (
                    ("same_noise_rmse", own.pictures, truth.pictures),
                    ("latent_rmse", own.latents, truth.latents),
                ):
                    values[name] = METRICS[name].per_picture(mine, theirs)
        measured.append(Measured(contestant, own.calls, values, judged, own.seconds_per_image))
        advance()
    return measured


def as_row(measured: Measured) -> Row:
    """Put intervals around one contestant's numbers."""
    contestant = measured.contestant
    metrics = {name: METRICS[name].interval(values) for name, values in measured.values.items()}
    metrics |= {name: proportion(held) for name, held in by_kind(measured.verdicts).items()}
    metrics["seconds_per_image"] = measured.seconds
    return Row(
        contestant.source, contestant.method, contestant.steps, measured.calls,
        contestant.seed, metrics,
    )  # fmt: skip


def by_kind(judged: list[Verdict]) -> dict[str, Values]:
    return {f"prompt_accuracy.{kind}": held for kind, held in by_attribute(judged).items()}


def pooled_rows(measured: Sequence[Measured]) -> list[Row]:
    """Return a row for each method and number of steps that several trainings share."""
    groups: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for one in measured:
        if one.contestant.method != "teacher":
            groups[one.contestant.method, one.contestant.steps].append(one)
    rows = []
    for (method, steps), group in groups.items():
        if len(group) > 1:
            numbers = [one.values | by_kind(one.verdicts) for one in group]
            metrics = {
                name: pooled(np.stack([each[name] for each in numbers])) for name in numbers[0]
            }
            metrics["seconds_per_image"] = group[0].seconds
            rows.append(Row(method, method, steps, group[0].calls, None, metrics))
    return rows
