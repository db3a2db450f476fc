"""Draw docs/images/students.png: the teacher and its students from the same noise.

python tools/students_image.py

The students are the first one per method that `python benchmarks/students.py` trains.
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
    names = ("multi-boundary-0", "cd-0", "ct-0")
    runs = EvaluationSet.open([str(TRAININGS / name) for name in names])
    multi_boundary, cd, ct = runs.students
    models = [runs.teacher(), runs.teacher(4), *runs.teachers_as_students(4)]
    models += [runs.student(cd, 8), *map(runs.student, (cd, multi_boundary, ct))]
    samples = SampleCache(TRAININGS.parent / "shown", PROMPTS, runs.resolution, SEED)
    show_progress(generate_images(models, samples, samples.batches))
    images = {model: samples.all_images(model) for model in models}
    write_file(OUT, png(grid(titled(images), PROMPTS)))


if __name__ == "__main__":
    main()
