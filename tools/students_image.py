"""Draw the README's picture: the teacher and its students in 4 steps from the same noise.

python tools/students_image.py

The students are the first one per method that `python benchmarks/students.py` trains, where it has
trained one; that of trajectory matching has to be there. A second picture has three columns, for
the width of a phone.
"""

from pathlib import Path

from fewstep.console import show_progress
from fewstep.evaluation.compare import titled
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.files import write_file
from fewstep.images import grid, png

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
TRAININGS = ROOT / "runs" / "students" / "trainings"
PROMPTS = [
    "a red heart above a blue star",
    "two green crosses with a yellow circle",
    "a small orange moon to the left of a blue square",
    "a big purple ring on a black background",
]
SEED, STEPS = 7, 4
NAMES = ["ct-0", "cd-0", "multi-boundary-0", "trajectory-matching-0",
         "trajectory-matching-2-segments-0", "trajectory-matching-1-segments-0"]  # fmt: skip


def main() -> None:
    folders = [TRAININGS / name for name in NAMES]
    runs = EvaluationSet.open([str(f) for f in folders if (f / "artefact").is_dir()])
    students = [
        runs.student(one, min(STEPS, one.contract.default_num_steps)) for one in runs.students
    ]
    teachers = [runs.teacher(), runs.teacher(STEPS)]
    models, folder = [*teachers, *students], TRAININGS.parent / "shown"
    samples = SampleCache(models, folder, PROMPTS, runs.resolution, SEED)
    show_progress(generate_images(samples, samples.batches))
    best = next(one for one in students if one.method == "trajectory-matching")
    for name, shown in {"students": models, "students-phone": [*teachers, best]}.items():
        images = {model: samples.all_images(model) for model in shown}
        write_file(IMAGES / f"{name}.png", png(grid(titled(images), PROMPTS)))


if __name__ == "__main__":
    main()
