"""Draw docs/images/students.png: the teacher and its students from the same noise.

python tools/students_image.py

The students are the first one per method that `python benchmarks/students.py` trains; those of
trajectory matching in 2 and 1 steps are shown where they were trained.
"""

from pathlib import Path

from fewstep.console import show_progress
from fewstep.evaluation.compare import titled
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.files import write_file
from fewstep.images import grid, png

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images" / "students.png"
TRAININGS = ROOT / "runs" / "students" / "trainings"
PROMPTS = [
    "a red heart above a blue star",
    "two green crosses with a yellow circle",
    "a small orange moon to the left of a blue square",
    "a big purple ring on a black background",
]
SEED = 7


def main() -> None:
    names = ["ct-0", "cd-0", "multi-boundary-0", "trajectory-matching-0"]
    fewer = [f"trajectory-matching-{num}-segments-0" for num in (2, 1)]
    names += [name for name in fewer if (TRAININGS / name / "artefact").is_dir()]
    runs = EvaluationSet.open([str(TRAININGS / name) for name in names])
    models, folder = runs.side_by_side(), TRAININGS.parent / "shown"
    samples = SampleCache(models, folder, PROMPTS, runs.resolution, SEED)
    show_progress(generate_images(samples, samples.batches))
    images = {model: samples.all_images(model) for model in models}
    write_file(OUT, png(grid(titled(images), PROMPTS)))


if __name__ == "__main__":
    main()
