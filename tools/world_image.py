"""Draw docs/images/world.png: scenes of the bundled world, and print their captions.

python tools/world_image.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.files import write_file
from fewstep.images import png
from fewstep.world.captions import describe
from fewstep.world.scenes import render, sample_scene

OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "world.png"
COLUMNS, ROWS, SIDE = 8, 4, 128


def main() -> None:
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
    for i in range(COLUMNS * ROWS):
        rng = np.random.default_rng([7, i])
        scene = sample_scene(rng)
        place = (i % COLUMNS * SIDE, i // COLUMNS * SIDE)
        sheet.paste(Image.fromarray(render(scene, SIDE)), place)
        print(describe(scene, rng))
    write_file(OUT, png(sheet))


if __name__ == "__main__":
    main()
