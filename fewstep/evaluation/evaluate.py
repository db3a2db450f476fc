"""`fewstep evaluate`: images into folders, features into a cache, a table with intervals."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fewstep.console import Steps, show_progress
from fewstep.distributed import Processes, is_main_process
from fewstep.errors import UserError
from fewstep.evaluation.compare import save_comparison, titled
from fewstep.evaluation.consistency import self_consistency
from fewstep.evaluation.diversity import diversity, images_of_prompts, models_of
from fewstep.evaluation.extraction import FeatureExtraction, extract_features
from fewstep.evaluation.measure import Measurement, Table, rows
from fewstep.evaluation.models import STUDENT_STEPS, EvaluationSet
from fewstep.evaluation.prompts import EvaluationInputs, load_inputs, load_inputs_of_images
from fewstep.evaluation.provenance import provenance
from fewstep.evaluation.report.headline import lead, match
from fewstep.evaluation.results import Results, Row, load, save
from fewstep.evaluation.samples import ImageFolders, SampleCache, generate_images
from fewstep.evaluation.terminal import summary, unmeasured
from fewstep.evaluation.timing import costs_in_turns
from fewstep.files import check_writable
from fewstep.models.loading import default_device
from fewstep.student.sample import check_words

NUM_SHOWN = 8


def evaluate_sources(
    sources: Sequence[str],
    protocol: str,
    out: Path,
    num_prompts: int | None = None,
    student_steps: Sequence[int] = STUDENT_STEPS,
    prompt_file: Path | None = None,
    data: Path | None = None,
    weights: Path | None = None,
    brief: bool = False,
) -> Path:
    """Measure students beside their teacher; write and return `out/results.json`.

    An interrupted evaluation continues, and several processes share its images. With `brief` the
    teacher is measured in its full number of steps alone.

    Raises:
        UserError: if a source, the protocol, its data or the number of prompts cannot be used.
    """
    processes = Processes.started(default_device())
    evaluation = EvaluationSet.open(sources, student_steps, brief)
    side, models = evaluation.resolution, evaluation.models
    inputs = load_inputs(protocol, side, num_prompts, prompt_file, data)
    check_models(evaluation, inputs)
    samples = SampleCache(out / "images", inputs.prompts, side, side=inputs.protocol.side)
    extraction = FeatureExtraction.open(inputs, out / "features", weights)
    measurement = Measurement.open(inputs, samples, extraction, evaluation.compared_with)
    repeated = images_of_prompts(out, inputs, side) if "diversity" in measurement.names else None
    work = [(samples, models), *([(repeated, models_of(evaluation))] if repeated else [])]
    missing = [(cache.num_missing(m), m.nfe) for cache, those in work for m in those]
    clock = time.perf_counter()
    if processes.is_main:
        check_writable(out, samples.bytes_of(sum(num for num, _ in missing)))
        measurement = measurement.with_targets()  # a broken image shows first
        samples.write_prompts()
    processes.wait()

    for cache, those in work:
        batches = cache.batches[processes.rank :: processes.count]
        show_progress(generate_images(those, cache, batches))
        if cache is samples:
            show_progress(extract_features(those, cache, batches, extraction))
    processes.wait()
    if processes.is_main:
        extracted = time.perf_counter()
        table = show_progress(measure_models(evaluation, samples, measurement, repeated))
        cost = describe_cost(missing, extracted - clock, time.perf_counter() - extracted)
        how = f"teacher's guidance {evaluation.guidance_scale:g}"
        save_table(out, measurement, inputs.describe(how, side, extraction.caches), table, cost)
        save_grid(out, evaluation, samples)
    processes.wait()
    return out / "results.json"


def evaluate_images(
    folders: Sequence[Path],
    protocol: str,
    out: Path,
    prompt_file: Path | None = None,
    data: Path | None = None,
    weights: Path | None = None,
) -> Path:
    """Measure folders of images from anywhere; write and return `out/results.json`.

    Metrics of latents, of the teacher and of the network are left out; without `prompt_file`, one
    line an image in the order of their names, those of prompts too.

    Raises:
        UserError: if a folder holds no images, images differ in size or folders in number, there
            is not one prompt an image, or the protocol or its data cannot be used.
    """
    check_writable(out)
    samples = ImageFolders.open(folders)
    side = samples.resolution
    inputs = load_inputs_of_images(protocol, side, samples.num_images, prompt_file, data)
    samples = replace(samples, side=inputs.protocol.side)
    extraction = FeatureExtraction.open(inputs, out / "features", weights)
    measurement = Measurement.open(inputs, samples, extraction).with_targets()
    show_progress(extract_features(samples.models, samples, samples.batches, extraction))
    table = rows(show_progress(measurement.measure(samples.models)), {})
    how = f"{samples.num_images} images of each folder"
    return save_table(out, measurement, inputs.describe(how, side, extraction.caches), table)


def check_models(evaluation: EvaluationSet, inputs: EvaluationInputs) -> None:
    """Refuse the same training twice, and prompts or a protocol that do not suit the model.

    Raises:
        UserError: naming the sources, the word or the protocol.
    """
    evaluation.check_distinct()
    if inputs.name == "bundled" and evaluation.base != "bundled":
        raise UserError(
            f"protocol 'bundled' reads images of the bundled world, and {evaluation.base} is "
            "another model; use --protocol prompts, or fewstep compare"
        )
    check_words(evaluation.base, inputs.prompts)


def measure_models(
    evaluation: EvaluationSet,
    samples: SampleCache,
    measurement: Measurement,
    repeated: SampleCache | None = None,
) -> Steps[tuple[Row, ...]]:
    """Return a row with intervals for each model, and pooled ones."""
    costs = yield from costs_in_turns(evaluation.models, samples)
    apart: Table = defaultdict(dict)
    for student in evaluation.students:
        apart[evaluation.student(student)]["self_consistency"] = self_consistency(
            evaluation, student, samples.prompts, measurement.extraction.folder
        )
    if repeated:
        for model in models_of(evaluation):
            apart[model]["diversity"] = diversity(model, repeated, measurement.extraction)
    table = yield from measurement.measure(evaluation.models, apart)
    return rows(table, costs)


def describe_cost(missing: Sequence[tuple[int, int]], extracted: float, measured: float) -> str:
    """Return what an evaluation took; `missing` are images that were not stored, and NFE of each.

    >>> describe_cost([(100, 4), (0, 100)], 60.4, 2.0)
    '100 images generated, 400 NFE: 60 s; measuring: 2 s'
    """
    images, nfe = sum(num for num, _ in missing), sum(num * each for num, each in missing)
    done = f"{images:,} images generated, {nfe:,} NFE"
    return f"{done}: {extracted:,.0f} s; measuring: {measured:,.0f} s"


def save_table(
    out: Path, measurement: Measurement, protocol: str, table: tuple[Row, ...], cost: str = ""
) -> Path:
    """Write `out/results.json` and return its path."""
    unavailable = measurement.unavailable
    results = Results(
        protocol=protocol, rows=table, unavailable=unavailable, cost=cost, **provenance()
    )
    save(results, out / "results.json")
    return out / "results.json"


def save_grid(out: Path, evaluation: EvaluationSet, samples: SampleCache) -> None:
    """Write the first images of teacher and students side by side."""
    shown = [model for model in evaluation.models if evaluation.is_shown(model)]
    first = {m: samples.read(m, samples.batches[0]).images[:NUM_SHOWN] for m in shown}
    save_comparison(out, samples.prompts[: len(first[shown[0]])], titled(first))


def print_results(path: Path) -> None:
    """Show results in the terminal: the table, and how much faster the best student is."""
    if not is_main_process():
        return
    console, results = Console(), load(path)
    console.print(summary(results, console.width))
    for line in filter(None, [*unmeasured(results), results.cost]):
        console.print(line, highlight=False)
    if found := match(results.rows):
        console.print(lead(found), highlight=False)
