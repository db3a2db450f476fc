"""`fewstep sample`: prompts become images, at the timesteps of the artefact's contract.

The functions that need a model import it: a missing prompt is refused before torch is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import isfinite
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.config import TEACHER_GUIDANCE
from fewstep.console import next_command, say_loading
from fewstep.errors import UserError
from fewstep.files import check_writable
from fewstep.images import grid
from fewstep.student.png_info import (
    DECODER,
    TRAINED,
    SampledImage,
    parameters_of,
    without_text,
    write_png,
)
from fewstep.text import checked, decoded, numbered_lines

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class SampleOptions:
    """The options of `fewstep sample`; where one is None, the source has its own default."""

    seed: int = 0
    num_images: int = 1
    height: int | None = None
    width: int | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    image: Path | None = None
    strength: float | None = None
    loras: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    decoder: str | None = None
    backend: str = "torch"
    precision: str = "fp32"


def generate_file(
    source: str,
    prompts: Sequence[str],
    prompt_file: Path | None,
    out: Path,
    options: SampleOptions,
) -> str:
    """Generate the prompts, several as a grid, into the PNG file `out`, or each into its own.

    A folder has a file an image, named by its seed. Returns a summary.

    Raises:
        UserError: if there is no prompt, or the source cannot generate with these options.
    """
    prompts = gather_prompts(prompts, prompt_file)
    to_file = out.suffix.lower() == ".png"
    if out.suffix and not to_file and not out.is_dir():
        raise UserError(f"--out is {out}, and images are written as PNG; name it .png")
    if to_file and out.is_dir():
        raise UserError(f"--out is {out}, which is a folder; name a file in it, or another")
    check_writable(out.parent if to_file else out)
    images = generate(source, prompts, options)
    if not to_file:
        for image in images:
            image.save(out / f"{image.seed}.png")
    elif len(images) == 1:
        images[0].save(out)
    else:
        write_png(out, side_by_side(images, prompts), parameters_of(images))
    return summary(out, images[0])


def summary(out: Path, image: SampledImage) -> str:
    """Return what was written and how, and how far an unfinished run was."""
    starts = str(image.settings["Timesteps"]).split(", ")
    shown = ", ".join(starts[:4]) + (" …" if len(starts) > 4 else "")
    text = f"wrote {out}: {image.nfe} network evaluations an image, starting at timesteps {shown}"
    trained = image.settings.get(TRAINED)
    return f"{text}; the run is not finished, this is its {trained}" if trained else text


def side_by_side(images: Sequence[SampledImage], prompts: Sequence[str]) -> Image.Image:
    """Draw a row for each prompt, with its images and their seeds above them."""
    pixels = [np.asarray(sampled.image) for sampled in images]
    num_columns = len(images) // len(prompts)
    columns = {}
    for column in range(num_columns):
        seeds = ", ".join(str(sampled.seed) for sampled in images[column::num_columns])
        number = "" if num_columns == 1 else f", image {column + 1}"
        title = f"{images[0].settings['Steps']} steps{number}, seed {seeds}"
        columns[title] = np.stack(pixels[column::num_columns])
    return grid(columns, prompts)


def generate(source: str, prompts: Sequence[str], options: SampleOptions) -> list[SampledImage]:
    """Generate by a run, of an unfinished one its last checkpoint, an artefact or a plain model.

    Raises:
        UserError: if the source is none of them, or cannot generate with these options.
    """
    if options.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UserError(f"--precision is {options.precision!r}; use {known}")
    if options.strength is not None and options.image is None:
        raise UserError("--strength goes with --image, the image to start from")
    if not Path(source).exists():
        check_words(source, prompts)
    say_loading()
    from fewstep.student.load import is_artefact
    from fewstep.student.unfinished import is_unfinished

    is_student = is_artefact(source) or is_unfinished(source)
    sample = _sample_student if is_student else _sample_teacher
    return sample(source, prompts, options)


def _sample_student(
    source: str, prompts: Sequence[str], options: SampleOptions
) -> list[SampledImage]:
    from fewstep.models.loading import default_device
    from fewstep.models.precision import DTYPES
    from fewstep.student.pipeline import FewStepPipeline

    pipeline = FewStepPipeline.from_pretrained(
        source,
        base=options.base,
        loras=options.loras,
        decoder=options.decoder,
        device=default_device() if options.backend == "torch" else "cpu",
        dtype=DTYPES[options.precision],
        backend=options.backend,
    )
    scale = 1.0 if options.guidance_scale is None else options.guidance_scale
    pipeline.check_guidance(scale, options.negative_prompt)
    check_words(pipeline.contract.base["id"], [*prompts, options.negative_prompt])
    return pipeline(
        prompts,
        seed=options.seed,
        num_images_per_prompt=options.num_images,
        height=options.height,
        width=options.width,
        num_inference_steps=options.num_steps,
        guidance_scale=scale,
        negative_prompt=options.negative_prompt,
        image=options.image and open_image(options.image),
        strength=options.strength,
    )


def _check_plain(source: str, options: SampleOptions) -> None:
    """Refuse what students alone take, of a plain model that is there."""
    given = {"--image": options.image, "--lora": options.loras, "--base": options.base,
             "--backend": options.backend != "torch"}  # fmt: skip
    if not (wrong := [option for option, value in given.items() if value]):
        return
    if source != "bundled":
        from fewstep.models.loading import load_skeleton

        load_skeleton(source)  # says so where it is not there
    raise UserError(f"{', '.join(wrong)} is for students, and {source} is a plain model")


def _sample_teacher(
    source: str, prompts: Sequence[str], options: SampleOptions
) -> list[SampledImage]:
    _check_plain(source, options)
    negative = options.negative_prompt
    check_words(source, [*prompts, negative])
    from fewstep.models.loading import default_device, load_model
    from fewstep.models.precision import DTYPES
    from fewstep.models.prompts import warn_of_cut
    from fewstep.models.tiny_decoder import with_decoder
    from fewstep.student.generate import TEACHER_STEPS, teacher_sampler
    from fewstep.student.load import decoder_folder
    from fewstep.student.pipeline import NO_EFFECT
    from fewstep.student.seeds import repeated

    decoder = options.decoder and decoder_folder(options.decoder)
    family = load_model(source, device=default_device(), dtype=DTYPES[options.precision])
    if decoder:
        family = with_decoder(family, decoder)
    scale = TEACHER_GUIDANCE if options.guidance_scale is None else options.guidance_scale
    steps = TEACHER_STEPS if options.num_steps is None else options.num_steps
    if negative and scale == 1:
        raise UserError(NO_EFFECT)
    try:
        sampler = teacher_sampler(family, steps, scale, negative_prompt=negative)
    except ValueError as error:
        raise UserError(str(error)) from error
    warn_of_cut(family, [*prompts, *filter(None, [negative])])
    settings = {
        "Steps": steps,
        "Sampler": "DDIM trailing",
        "CFG scale": f"{scale:g}",
        "Model": Path(source).name,
        "Timesteps": ", ".join(map(str, sampler.timesteps)),
        **({DECODER: Path(options.decoder).name} if options.decoder else {}),
    }
    prompts = repeated(prompts, options.num_images)
    size = [family.default_resolution if side is None else side
            for side in (options.height, options.width)]  # fmt: skip
    images = sampler.generate(prompts, options.seed, *size)
    return [
        SampledImage(image, prompt, options.seed + number, sampler.nfe, negative, settings)
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    ]


def open_image(path: Path) -> Image.Image:
    """Read the image to start from.

    Raises:
        UserError: if it is not one.
    """
    try:
        with Image.open(BytesIO(without_text(path.read_bytes()))) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--image: cannot read {path} as an image ({error})") from error


def read_loras(given: Sequence[str]) -> dict[str, float]:
    """Read "PATH" or "PATH=WEIGHT", the weight 1 where there is none.

    >>> read_loras(["ink.safetensors", "glow.safetensors=0.5"])
    {'ink.safetensors': 1.0, 'glow.safetensors': 0.5}

    Raises:
        UserError: if a weight is no finite number.
    """
    loras = {}
    for text in given:
        path, equals, weight = text.rpartition("=")
        try:
            value = float(weight) if equals else 1.0
        except ValueError as error:
            raise UserError(f"--lora is {text!r}; write PATH or PATH=WEIGHT") from error
        if not isfinite(value):
            raise UserError(f"--lora is {text!r}, and its weight has to be a finite number")
        loras[path or text] = value
    return loras


def gather_prompts(prompts: Sequence[str], prompt_file: Path | None) -> list[str]:
    """Return the prompts given and those of the file, one a line.

    Raises:
        UserError: if there is none, or the file cannot be read.
    """
    lines = [(f"prompt {number}", prompt) for number, prompt in enumerate(prompts, 1)]
    if prompt_file is not None:
        try:
            text = decoded(prompt_file.read_bytes(), str(prompt_file))
        except OSError as error:
            raise UserError(
                f"cannot read the prompts in {prompt_file}: {error.strerror}"
            ) from error
        lines += numbered_lines(text, str(prompt_file))
    gathered = [checked(where, line) for where, line in lines if line.strip()]
    if not gathered:
        where = f"{prompt_file} holds no prompt" if prompt_file else "there is no prompt"
        raise UserError(f'{where}; give one in quotes, such as "a red heart above a blue star"')
    return gathered


def sample_next(source: str | Path, base: str, *options: object) -> str:
    """Return the command that samples `base` or its student, with a prompt that it understands."""
    prompt = "a red heart above a blue star" if base == "bundled" else "a lighthouse at dusk"
    return next_command("sample", source, prompt, *options, "-o", "out.png")


def check_words(base: str, prompts: Sequence[str]) -> None:
    """Refuse words outside the bundled teacher's vocabulary.

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
