"""`fewstep sample`: prompts become images, at the timesteps of the artefact's contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.errors import UserError
from fewstep.files import check_writable, write_file
from fewstep.images import grid
from fewstep.models.loading import default_device, load_model
from fewstep.student.generate import TEACHER_GUIDANCE, TEACHER_STEPS, teacher_sampler
from fewstep.student.load import is_artefact
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.png_info import SampledImage, parameters_of, png


@dataclass(frozen=True)
class Wish:
    """What is asked of the images; see `fewstep sample --help`. None leaves it to the source."""

    seed: int = 0
    num_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    image: Path | None = None
    strength: float | None = None
    loras: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None


def generate_file(
    source: str, prompts: Sequence[str], prompt_file: Path | None, out: Path, wish: Wish
) -> str:
    """Generate the prompts into the file `out`, several as a grid; return what was done, in words.

    Raises:
        UserError: if there is no prompt, or the source cannot generate with these settings.
    """
    prompts = gather_prompts(prompts, prompt_file)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}, and images are written as PNG; name it .png")
    if out.is_dir():
        raise UserError(f"--out is {out}, which is a folder; name a file in it, or another")
    check_writable(out.parent)
    images = generate(source, prompts, wish)
    first = images[0]
    if len(images) == 1:
        first.save(out)
    else:
        pixels = np.stack([np.asarray(image.image) for image in images])
        title = f"{first.settings['Steps']} steps, {first.calls} network calls, seed {wish.seed}"
        write_file(out, png(grid({title: pixels}, prompts), parameters_of(images)))
    starts = str(first.settings["Timesteps"]).split(", ")
    told = ", ".join(starts[:4]) + (" …" if len(starts) > 4 else "")
    return f"wrote {out}: {first.calls} network calls an image, starting at timesteps {told}"


def generate(source: str, prompts: Sequence[str], wish: Wish) -> list[SampledImage]:
    """Generate by a run, an artefact or a plain model.

    Raises:
        UserError: if the source is none of them, or does not know these settings.
    """
    folder = Path(source)
    if (folder / "config.toml").is_file() and not (folder / "artefact").is_dir():
        raise UserError(f"{source} is not trained to its end; run its fewstep distill again first")
    if wish.strength is not None and wish.image is None:
        raise UserError("--strength goes with --image, the image to start from")
    return (by_student if is_artefact(source) else by_teacher)(source, prompts, wish)


def by_student(source: str, prompts: Sequence[str], wish: Wish) -> list[SampledImage]:
    pipeline = FewStepPipeline.from_pretrained(
        source, base=wish.base, loras=wish.loras, device=default_device()
    )
    check_words(pipeline.contract.base["id"], [*prompts, wish.negative_prompt])
    return pipeline(
        prompts,
        seed=wish.seed,
        num_steps=wish.num_steps,
        guidance_scale=1.0 if wish.guidance_scale is None else wish.guidance_scale,
        negative_prompt=wish.negative_prompt,
        image=wish.image and open_image(wish.image),
        strength=wish.strength,
    )


def by_teacher(source: str, prompts: Sequence[str], wish: Wish) -> list[SampledImage]:
    given = {"--image": wish.image, "--lora": wish.loras, "--base": wish.base,
             "--negative-prompt": wish.negative_prompt}  # fmt: skip
    if wrong := [option for option, value in given.items() if value]:
        raise UserError(f"{', '.join(wrong)} is for students, and {source} is a plain model")
    family = load_model(source, device=default_device())
    check_words(source, prompts)
    scale = TEACHER_GUIDANCE if wish.guidance_scale is None else wish.guidance_scale
    steps = TEACHER_STEPS if wish.num_steps is None else wish.num_steps
    try:
        sampler = teacher_sampler(family, steps, scale)
    except ValueError as error:  # the maths names the value and the range
        raise UserError(str(error)) from error
    settings = {"Steps": steps, "Sampler": "DDIM trailing", "CFG scale": f"{scale:g}",
                "Model": Path(source).name,
                "Timesteps": ", ".join(map(str, sampler.timesteps))}  # fmt: skip
    images = sampler.generate(prompts, wish.seed, family.default_resolution)
    return [
        SampledImage(image, prompt, wish.seed, number, sampler.nfe, settings=settings)
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    ]


def open_image(path: Path) -> Image.Image:
    """Read the image to start from.

    Raises:
        UserError: if it is not one.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--image: cannot read {path} as an image ({error})") from error


def read_loras(given: Sequence[str]) -> dict[str, float]:
    """Read "PATH" or "PATH=WEIGHT", the weight 1 where there is none.

    >>> read_loras(["ink.safetensors", "glow.safetensors=0.5"])
    {'ink.safetensors': 1.0, 'glow.safetensors': 0.5}

    Raises:
        UserError: if a weight is no number.
    """
    loras = {}
    for text in given:
        path, equals, weight = text.rpartition("=")
        try:
            loras[path or text] = float(weight) if equals else 1.0
        except ValueError as error:
            raise UserError(f"--lora is {text!r}; write PATH or PATH=WEIGHT") from error
    return loras


def gather_prompts(prompts: Sequence[str], prompt_file: Path | None) -> list[str]:
    """Return the prompts given and those of the file, one a line.

    Raises:
        UserError: if there is none, or the file cannot be read.
    """
    lines: list[str] = []
    if prompt_file is not None:
        try:
            lines = prompt_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the prompts in {prompt_file}: {error}") from error
    gathered = [line.strip() for line in [*prompts, *lines] if line.strip()]
    if not gathered:
        where = f"{prompt_file} holds no prompt" if prompt_file else "there is no prompt"
        raise UserError(f'{where}; give one in quotes, such as "a red heart above a blue star"')
    return gathered


def check_words(base: str, prompts: Sequence[str]) -> None:
    """Refuse words outside the bundled teacher's closed vocabulary.

    Raises:
        UserError: naming the words, and those that it knows.
    """
    if base != "bundled":
        return
    from fewstep.world.sentences import all_words, unknown_words

    if unknown := sorted({word for prompt in prompts for word in unknown_words(prompt)}):
        raise UserError(
            f"the bundled teacher does not know {', '.join(map(repr, unknown))}; it knows: "
            f"{', '.join(all_words())}"
        )
