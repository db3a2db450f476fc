"""`fewstep compare`: the same prompts from the same noise by a teacher and its students."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fewstep.console import counted, show_progress
from fewstep.evaluation.comparison import COMPARISON, save_comparison
from fewstep.evaluation.intervals import Values
from fewstep.evaluation.labels import title_of
from fewstep.evaluation.measure import row
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.models import EvaluatedModel, EvaluationSet
from fewstep.evaluation.provenance import provenance
from fewstep.evaluation.results import Results
from fewstep.evaluation.results import save as save_results
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.evaluation.timing import costs_in_turns
from fewstep.files import check_writable
from fewstep.images import Images
from fewstep.student.sample import check_words, gather_prompts


def compare_sources(
    sources: Sequence[str], prompts: Sequence[str], prompt_file: Path | None, seed: int, out: Path
) -> Path:
    """Generate by the teacher at 50 steps and at few, and by each student; return the grid.

    Image i has seed + i. Where students' timesteps are not uniform, the teacher takes few steps at
    theirs as well. Also writes `out/results.json`: NFE, seconds and distances to the teacher's
    images, for any teacher.

    Raises:
        UserError: if a source cannot be used, or there is no prompt.
    """
    prompts = gather_prompts(prompts, prompt_file)
    check_writable(out)
    evaluation = EvaluationSet.open(sources)
    check_words(evaluation.base, prompts)
    few = min(evaluation.student(student).steps for student in evaluation.students)
    models = evaluation.side_by_side(few)
    folder, resolution = out / "images", evaluation.resolution
    samples = SampleCache(models, folder, prompts, resolution, seed, counts_up=True)
    show_progress(generate_images(samples, samples.batches))
    costs = show_progress(costs_in_turns(samples))
    images = {model: samples.all_images(model) for model in models}
    table = {model: distances(model, images, models[0]) for model in models}
    protocol = f"{COMPARISON}, {counted(len(prompts), 'prompt')}, seed {seed}"
    rows = tuple(row([model], table, costs) for model in models)
    save_results(
        Results(protocol=protocol, rows=rows, unavailable={}, **provenance()), out / "results.json"
    )
    return save_comparison(out, prompts, titled(images))


def distances(
    model: EvaluatedModel, images: Mapping[EvaluatedModel, Images], teacher: EvaluatedModel
) -> dict[str, Values]:
    """Return how far images are from the teacher's, if the noise decides them.

    One image alone has no interval, and so no distance.
    """
    if model == teacher or not model.is_deterministic or len(images[model]) < 2:
        return {}
    name = "same_noise_rmse"
    return {name: METRICS[name].per_image(images[model], images[teacher])}


def titled(images: Mapping[EvaluatedModel, Images]) -> dict[str, Images]:
    """Return images by their columns' titles; of several trainings of one setting the first."""
    columns: dict[str, Images] = {}
    shown: set[tuple[str, str]] = set()
    for model, column in images.items():
        step = "step" if model.spacing == "uniform" else f"{model.spacing} step"
        title = f"{title_of(model.method)}, {counted(model.steps, step)}"
        if (title, model.settings) not in shown:
            shown.add((title, model.settings))
            columns[f"{title}, {model.source}" if title in columns else title] = column
    return columns
