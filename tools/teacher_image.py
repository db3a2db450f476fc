"""Draw docs/images/teacher.png: the bundled teacher in 50 steps (above) and in 4 (below).

python tools/teacher_image.py
"""

from pathlib import Path

from PIL import Image

from fewstep.evaluation.prompts import held_out_prompts
from fewstep.files import write_file
from fewstep.images import png
from fewstep.models.loading import load_model
from fewstep.student.generate import teacher_sampler

OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "teacher.png"
COLUMNS, SIDE, STEPS, GUIDANCE = 8, 128, (50, 4), 2.0


def main() -> None:
    family = load_model("bundled")
    prompts = [prompt for prompt in held_out_prompts(40) if len(prompt) > 20][:COLUMNS]
    sheet = Image.new("RGB", (COLUMNS * SIDE, len(STEPS) * SIDE))
    for row, steps in enumerate(STEPS):
        sampler = teacher_sampler(family, steps, GUIDANCE)
        images = sampler.generate(prompts, 0, family.default_resolution)
        for column, image in enumerate(images):
            enlarged = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(enlarged, (column * SIDE, row * SIDE))
    write_file(OUT, png(sheet))
    print("\n".join(prompts))


if __name__ == "__main__":
    main()
