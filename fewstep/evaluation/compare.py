"""`fewstep compare`: the same prompts from the same noise by a teacher and its students."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fewstep.console import progress_bar
from fewstep.errors import UserError
from fewstep.evaluation.generate import Gallery, Made, generate_all
from fewstep.evaluation.labels import counted, title_of
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.models import Contestant, Field
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.results import Results, Row
from fewstep.evaluation.results import save as save_results
from fewstep.evaluation.timing import Costs, costs_in_turns
from fewstep.files import check_writable, write_file
from fewstep.images import Images, check, grid, png
from fewstep.student.sample import check_words, gather_prompts

COMPARISON = "comparison"
"""How the protocol of every comparison begins."""
COMPARISON_FILE = "comparison.safetensors"


@dataclass(frozen=True)
class Comparison:
    """Images of the same prompts from the same starting noises, one column a source.

    Raises:
        ValueError: if a column does not have one image a prompt.
    """

    prompts: Sequence[str]
    columns: Mapping[str, Images]

    def __post_init__(self) -> None:
        check(self.columns, self.prompts)


def compare_sources(
    sources: Sequence[str], prompts: Sequence[str], prompt_file: Path | None, seed: int, out: Path
) -> Path:
    """Generate by the teacher at 50 steps, the teacher at 4, and each student; return the grid.

    Where students' timesteps are not evenly spaced, the teacher has a column at theirs as well.
    Also writes `out/results.json` with network calls, seconds and distances to the teacher's
    images, for any teacher.

    Raises:
        UserError: if a source cannot be used, or there is no prompt.
    """
    prompts = gather_prompts(prompts, prompt_file)
    check_writable(out)
    field = Field.open(sources)
    check_words(field.base, prompts)
    gallery = Gallery(out / "images", prompts, field.resolution, seed)
    students = [field.student(student) for student in field.students]
    few = min(student.steps for student in students)
    teachers = [field.teacher(), field.teacher(few), *field.teachers_as_students(few)]
    contestants = [*teachers, *students]
    with progress_bar() as bar:
        made = generate_all(contestants, gallery, bar)
        costs = costs_in_turns(contestants, gallery, bar)
    save_results(
        Results(
            protocol=f"{COMPARISON}, {len(prompts)} prompts, seed {seed}",
            command=" ".join(["fewstep", *sys.argv[1:]]),
            commit=commit(),
            machine=machine(),
            rows=tuple(
                _row(contestant, own, made[contestants[0]], costs[contestant])
                for contestant, own in made.items()
            ),
        ),
        out / "results.json",
    )
    return save_comparison(out, prompts, {c: own.images for c, own in made.items()})


def _row(contestant: Contestant, made: Made, teacher: Made, costs: Costs) -> Row:
    """Return what an image costs, and where its noise decides it how far it is from the teacher's.

    One image alone has no interval, and so no distance.
    """
    metrics = dict(costs)
    if contestant.keeps_noise and made is not teacher and len(made.images) > 1:
        metrics["same_noise_rmse"] = METRICS["same_noise_rmse"].measure(made.images, teacher.images)
    return Row(
        contestant.source, contestant.method, contestant.steps, contestant.calls, contestant.seed,
        metrics,
    )  # fmt: skip


def save_comparison(
    out: Path, prompts: Sequence[str], images: Mapping[Contestant, NDArray[np.uint8]]
) -> Path:
    """Write the images side by side as `grid.png`, and as a file that a report reads."""
    columns = titled(images)
    tensors = {title: torch.from_numpy(made.copy()) for title, made in columns.items()}
    about = {"prompts": json.dumps(list(prompts)), "columns": json.dumps(list(columns))}
    write_file(out / COMPARISON_FILE, save(tensors, about))
    write_file(out / "grid.png", png(grid(columns, prompts)))
    return out / "grid.png"


def titled(images: Mapping[Contestant, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Return images by their columns' titles; of several trainings of one setting the first."""
    columns: dict[str, NDArray[np.uint8]] = {}
    shown: set[tuple[str, str]] = set()
    for contestant, made in images.items():
        step = "step" if contestant.spacing == "uniform" else f"{contestant.spacing} step"
        title = f"{title_of(contestant.method)}, {counted(contestant.steps, step)}"
        if (title, contestant.settings) in shown:
            continue
        shown.add((title, contestant.settings))
        columns[f"{title}, {contestant.source}" if title in columns else title] = made
    return columns


def load_comparison(folder: Path) -> Comparison:
    """Read what `save_comparison` wrote.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / COMPARISON_FILE
    try:
        with safe_open(path, "np") as file:
            about = file.metadata()
            columns = {title: file.get_tensor(title) for title in json.loads(about["columns"])}
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged: {error}; delete it and run its command again"
        ) from error
    return Comparison(json.loads(about["prompts"]), columns)
