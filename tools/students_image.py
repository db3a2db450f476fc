"""Draw docs/images/students.png: the teacher and its students from the same noise.

python tools/students_image.py

The students are the first one per method that `python benchmarks/students.py` trains.
"""

from pathlib import Path

from fewstep.console import progress_bar
from fewstep.evaluation.compare import titled
from fewstep.evaluation.generate import Gallery, generate_all
from fewstep.evaluation.models import Field
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
    field = Field.open([str(TRAININGS / name) for name in names])
    multi_boundary, cd, ct = field.students
    contestants = [field.teacher(), field.teacher(4), *field.teachers_as_students(4)]
    contestants += [field.student(cd, 8), *map(field.student, (cd, multi_boundary, ct))]
    gallery = Gallery(TRAININGS.parent / "shown", PROMPTS, field.resolution, SEED)
    with progress_bar() as bar:
        made = generate_all(contestants, gallery, bar)
    images = {contestant: each.images for contestant, each in made.items()}
    write_file(OUT, png(grid(titled(images), PROMPTS)))


if __name__ == "__main__":
    main()
