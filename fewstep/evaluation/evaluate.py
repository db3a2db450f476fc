"""`fewstep evaluate`: images into folders, features into a cache, a table with intervals."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fewstep.console import Steps, is_main_process, show_progress
from fewstep.distributed import Processes
from fewstep.errors import UserError
from fewstep.evaluation.compare import titled
from fewstep.evaluation.comparison import save_comparison
from fewstep.evaluation.consistency import self_consistency
from fewstep.evaluation.diversity import diversity, images_of_prompts
from fewstep.evaluation.extraction import extract_features
from fewstep.evaluation.measure import Measurement, rows
from fewstep.evaluation.models import STUDENT_STEPS, EvaluatedModel, EvaluationSet
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
    resolution = evaluation.resolution
    inputs = load_inputs(protocol, resolution, num_prompts, prompt_file, data)
    check_models(evaluation, inputs)
    models, own, side = evaluation.models, evaluation.in_own_steps, inputs.protocol.side
    samples = SampleCache(models, out / "images", inputs.prompts, resolution, side=side)
    measurement = Measurement.open(inputs, samples, out / "features", weights)
    caches = [samples]
    if "diversity" in measurement.names:
        caches.append(images_of_prompts(own, out, inputs, resolution))
    num_images, nfe = map(sum, zip(*(cache.missing() for cache in caches), strict=True))
    if processes.is_main:
        check_writable(out, samples.bytes_of(num_images))
        measurement = measurement.with_targets()  # a broken image shows first
        samples.write_prompts()
    processes.wait()

    started, share = time.perf_counter(), slice(processes.rank, None, processes.count)
    for cache in caches:
        show_progress(generate_images(cache, cache.batches[share]))
    show_progress(extract_features(samples, samples.batches[share], measurement.extraction))
    processes.wait()
    if processes.is_main:
        extracted = time.perf_counter()
        table = show_progress(measure_models(measurement, own, *caches))
        seconds = extracted - started, time.perf_counter() - extracted
        how = f"teacher's guidance {evaluation.guidance_scale:g}"
        save_table(out, measurement, how, table, describe_cost(num_images, nfe, *seconds))
        save_grid(out, samples, evaluation.side_by_side())
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
    num = samples.num_images
    inputs = load_inputs_of_images(protocol, samples.resolution, num, prompt_file, data)
    samples = replace(samples, side=inputs.protocol.side)
    measurement = Measurement.open(inputs, samples, out / "features", weights).with_targets()
    show_progress(extract_features(samples, samples.batches, measurement.extraction))
    table = rows(show_progress(measurement.measure()), {})
    return save_table(out, measurement, f"{num} images of each folder", table)


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
    measurement: Measurement,
    own: Sequence[EvaluatedModel],
    samples: SampleCache,
    repeated: SampleCache | None = None,
) -> Steps[tuple[Row, ...]]:
    """Return a row with intervals for each model, and pooled ones.

    Of `own`, the models in their own number of steps, self-consistency and diversity are measured:
    the latter of several images of each prompt, `repeated`.
    """
    costs = yield from costs_in_turns(samples)
    extraction, apart = measurement.extraction, defaultdict(dict)
    for model in own:
        if model.grid:
            apart[model]["self_consistency"] = self_consistency(
                model, model.grid, samples.prompts, samples.resolution, extraction.folder
            )
        if repeated:
            apart[model]["diversity"] = diversity(model, repeated, extraction)
    table = yield from measurement.measure(apart)
    return rows(table, costs)


def describe_cost(num_images: int, nfe: int, extracted: float, measured: float) -> str:
    """Return what an evaluation took: images and NFE that were not stored, and seconds.

    >>> describe_cost(100, 400, 60.4, 2.0)
    '100 images generated, 400 NFE: 60 s; measuring: 2 s'
    """
    done = f"{num_images:,} images generated, {nfe:,} NFE"
    return f"{done}: {extracted:,.0f} s; measuring: {measured:,.0f} s"


def save_table(
    out: Path, measurement: Measurement, how: str, table: tuple[Row, ...], cost: str = ""
) -> Path:
    """Write `out/results.json` and return its path; `how` says how images were generated."""
    unavailable, protocol = measurement.unavailable, measurement.describe(how)
    results = Results(
        protocol=protocol, rows=table, unavailable=unavailable, cost=cost, **provenance()
    )
    save(results, out / "results.json")
    return out / "results.json"


def save_grid(out: Path, samples: SampleCache, shown: Sequence[EvaluatedModel]) -> None:
    """Write the first images of those of these models that were sampled, side by side."""
    numbers = samples.batches[0][:NUM_SHOWN]
    models = [model for model in shown if model in samples.models]
    first = {m: samples.read(m, samples.batches[0]).images[:NUM_SHOWN] for m in models}
    save_comparison(out, samples.prompts[: len(numbers)], titled(first))


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
