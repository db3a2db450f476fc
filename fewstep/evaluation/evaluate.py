"""`fewstep evaluate`: students beside their teacher from the same noises, by a protocol."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fewstep.console import progress_bar
from fewstep.distributed import Processes, is_main_process
from fewstep.errors import UserError
from fewstep.evaluation.compare import save_comparison
from fewstep.evaluation.consistency import self_consistency
from fewstep.evaluation.generate import Gallery
from fewstep.evaluation.judges import Judges
from fewstep.evaluation.lineup import check_distinct, is_shown, line_up, others_of
from fewstep.evaluation.measure import Measured, differences, observe
from fewstep.evaluation.models import Contestant, Field
from fewstep.evaluation.prompts import Task, open_task
from fewstep.evaluation.provenance import commit, machine
from fewstep.evaluation.report.headline import lead, match
from fewstep.evaluation.results import Results, load, save
from fewstep.evaluation.rows import as_row, pooled_rows
from fewstep.evaluation.terminal import summary, unmeasured
from fewstep.evaluation.timing import costs_in_turns
from fewstep.files import check_writable
from fewstep.models.loading import default_device
from fewstep.student.sample import check_words

NUM_SHOWN = 8
STUDENT_STEPS = (1, 2, 4, 8)


def evaluate_sources(
    sources: Sequence[str],
    protocol: str,
    out: Path,
    num_prompts: int | None = None,
    student_steps: Sequence[int] = STUDENT_STEPS,
    prompt_file: Path | None = None,
    data: Path | None = None,
    weights: Path | None = None,
) -> Path:
    """Measure every source and its teacher; write and return `out/results.json`.

    Images and what judges say of them are kept in `out`, so that an interrupted evaluation
    continues. Processes that torchrun or accelerate starts share the generating.

    Raises:
        UserError: if a source, the protocol, its data or the number of prompts cannot be used.
    """
    processes = Processes.started(default_device())
    field = Field.open(sources)
    check_distinct(field)
    task = open_task(protocol, num_prompts, prompt_file, data, field.resolution)
    check_model(field, task)
    judges = Judges.of(task, out / "features", weights)
    gallery = Gallery(out / "images", task.prompts, field.resolution, side=task.protocol.side)
    contestants = line_up(field, student_steps)
    if processes.is_main:
        check_writable(out, needed_bytes(gallery, len(contestants)))

    missing = [(gallery.lacking(contestant), contestant.calls) for contestant in contestants]
    bar, clock = progress_bar(), time.perf_counter()
    bar.disable = not processes.is_main
    with bar:
        if processes.is_main:
            judges.real  # noqa: B018  a broken image shows before anything is generated
        processes.wait()
        starts = gallery.starts[processes.rank :: processes.count]
        generate_share(contestants, gallery, judges, starts, bar)
        processes.wait()
        if processes.is_main:
            generated = time.perf_counter() - clock
            measured = measure(contestants, field, gallery, judges, bar)
            cost = told_cost(missing, generated, time.perf_counter() - clock - generated)
            write_results(measured, field, gallery, judges, out, cost)
    processes.wait()
    return out / "results.json"


def check_model(field: Field, task: Task) -> None:
    """Refuse prompts that the model cannot read, and images that the judges cannot.

    Raises:
        UserError: naming the way out.
    """
    if task.name == "bundled" and field.base != "bundled":
        raise UserError(
            f"protocol 'bundled' reads images of the bundled world, and {field.base} is another "
            "model; use --protocol prompts, or fewstep compare"
        )
    check_words(field.base, task.prompts)


def needed_bytes(gallery: Gallery, num_contestants: int) -> int:
    """Return how large the images and latents will be, but for those that are there."""
    side = gallery.side or gallery.resolution
    each = 3 * side**2 + 16 * (gallery.resolution // 4) ** 2  # the finest latents there are
    there = sum(file.stat().st_size for file in gallery.folder.glob("*.safetensors"))
    return max(20_000_000, num_contestants * len(gallery.prompts) * each - there)


def generate_share(
    contestants: Sequence[Contestant],
    gallery: Gallery,
    judges: Judges,
    starts: Sequence[int],
    bar: Progress,
) -> None:
    """Generate these batches of every contestant, and let the networks look at them while at it.

    The bar counts network calls, as they take the time.
    """
    images = sum(len(gallery.numbers(first)) for first in starts)
    calls = sum(contestant.calls for contestant in contestants)
    task = bar.add_task("generating, network calls", total=calls * images, note="")
    for contestant in contestants:
        bar.update(task, note=f"{contestant.source}, {contestant.steps} steps")
        for first, made in zip(starts, gallery.batches(contestant, starts), strict=True):
            judges.see(made, [gallery.prompts[i] for i in gallery.numbers(first)])
            bar.advance(task, contestant.calls * len(made.images))


def measure(
    contestants: Sequence[Contestant], field: Field, gallery: Gallery, judges: Judges, bar: Progress
) -> list[Measured]:
    """Judge every contestant, and compare it with the first one: the teacher.

    Raises:
        UserError: naming the contestant whose features are not finite or do not fit.
    """
    costs = costs_in_turns(contestants, gallery, bar)
    task = bar.add_task("measuring", total=len(contestants) + len(field.students), note="")
    measured: list[Measured] = []
    for contestant in contestants:
        teacher = measured[0] if measured else None
        others = others_of(contestant, contestants, field)
        try:
            own_costs = costs[contestant]
            measured.append(observe(contestant, others, gallery, judges, teacher, own_costs))
        except ValueError as error:  # the maths says what is wrong, and not with whom
            who = f"{contestant.source} in {contestant.steps} steps"
            raise UserError(f"{who} cannot be measured: {error}") from error
        bar.advance(task)
    unguided = next(one for one in measured if one.contestant == field.teacher(guided=False))
    by_contestant = {one.contestant: one for one in measured}
    for student in field.students:
        own = by_contestant[field.student(student)]
        own.values["self_consistency"] = self_consistency(
            field, student, gallery.prompts, judges.folder
        )
        bar.advance(task)
    for one in measured:
        if not one.contestant.knows_teacher:
            one.values.update(differences(one.values, unguided.values, "difference_unguided"))
    return measured


def told_cost(missing: Sequence[tuple[int, int]], generated: float, compared: float) -> str:
    """Return what an evaluation took; `missing` are images and network calls of each.

    >>> told_cost([(100, 4), (0, 100)], 60.4, 2.0)
    '100 images generated and judged, 400 network calls: 60 s; comparing all: 2 s'
    """
    images, calls = sum(n for n, _ in missing), sum(n * each for n, each in missing)
    return (
        f"{images:,} images generated and judged, {calls:,} network calls: {generated:,.0f} s; "
        f"comparing all: {compared:,.0f} s"
    )


def write_results(
    measured: Sequence[Measured],
    field: Field,
    gallery: Gallery,
    judges: Judges,
    out: Path,
    cost: str,
) -> None:
    """Write the table, and the images of the first prompts side by side."""
    task = judges.task
    results = Results(
        protocol=task.protocol.described(
            task.name, task.prompts, field.resolution, field.guidance_scale, list(judges.caches)
        ),
        command=" ".join(["fewstep", *sys.argv[1:]]),
        commit=commit(),
        machine=machine(),
        unavailable=judges.unavailable,
        rows=(*map(as_row, measured), *pooled_rows(measured)),
        cost=cost,
    )
    save(results, out / "results.json")
    num_shown = min(NUM_SHOWN, len(gallery.numbers(0)))
    shown = {
        one.contestant: next(gallery.batches(one.contestant, [0])).images[:num_shown]
        for one in measured
        if is_shown(one.contestant, field)
    }
    save_comparison(out, task.prompts[:num_shown], shown)


def print_results(path: Path) -> None:
    """Show results in the terminal: the table, and how much faster the best student is."""
    if not is_main_process():
        return
    console, results = Console(), load(path)
    console.print(summary(results, console.width))
    for line in unmeasured(results):
        console.print(line, highlight=False)
    console.print(results.cost, highlight=False)
    if found := match(results.rows):
        console.print(lead(found), highlight=False)
