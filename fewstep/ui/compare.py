"""The same prompt from the same noise by teacher and students: one column a model, as it grows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from PIL import Image

from fewstep.console import counted
from fewstep.errors import UserError
from fewstep.evaluation.models import EvaluationSet
from fewstep.evaluation.students import Student
from fewstep.methods import method_title
from fewstep.student.blend import blended_network
from fewstep.student.generate import TEACHER_STEPS, ImageSampler, finite_latents, teacher_sampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.png_info import SampledImage
from fewstep.student.sample import check_words
from fewstep.student.seeds import image_generators
from fewstep.text import checked

FEW_STEPS = 4
"""The teacher's other column: as few steps as students have, to see what distilling is for."""

MOST_IMAGES = 4
STRIP = 8
"""The most images in the strip of steps; of the teacher's 50 steps these are evenly spaced."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Request:
    """What somebody asked for. `steps` has a number for each student.

    `strength` is how much of the students' training is used: 0 is the teacher's network.
    Guidance and negative prompt are of the teacher and of students that were trained for them.
    """

    prompt: str
    seed: int
    num_images: int
    steps: tuple[int, ...]
    guidance_scale: float
    strength: float = 1.0
    negative_prompt: str = ""
    with_strip: bool = False


@dataclass(frozen=True)
class Column:
    """A model's images, complete once `done` is `total`; `key` is all that they depend on."""

    key: tuple[object, ...]
    title: str
    note: str
    total: int
    sampler: Callable[[], ImageSampler]
    done: int = 0
    images: tuple[SampledImage, ...] = ()
    strip: tuple[Image.Image, ...] = ()
    seconds: float = 0.0
    """Of one image, from the prompt to its pixels."""


def columns(models: EvaluationSet, request: Request) -> list[Column]:
    """Return the columns to fill: the teacher in 50 steps and in few, then each student.

    Raises:
        UserError: if there is no prompt, the model does not know its words, or a number cannot be
            used.
    """
    prompt = checked("the prompt", request.prompt) if request.prompt.strip() else ""
    if not prompt:
        raise UserError("there is no prompt; write one, such as a red heart above a blue star")
    check_words(models.base, [prompt, request.negative_prompt])
    if not 1 <= request.num_images <= MOST_IMAGES:
        raise UserError(
            f"the number of images is {request.num_images}; it has to be 1 to {MOST_IMAGES}"
        )
    if not 0 <= request.strength <= 1.5:
        raise UserError(f"the blend is {request.strength:g}; it has to be 0 to 1.5")
    image_generators(request.seed, request.num_images)
    request = replace(request, prompt=prompt)
    made = [teacher_column(models, request, steps) for steps in (TEACHER_STEPS, FEW_STEPS)]
    pairs = zip(models.students, request.steps, strict=True)
    return [*made, *(student_column(models, student, request, steps) for student, steps in pairs)]


def teacher_column(models: EvaluationSet, request: Request, steps: int) -> Column:
    """Return the teacher's column at a number of steps."""
    scale, negative = request.guidance_scale, request.negative_prompt

    def sampler() -> ImageSampler:
        return teacher_sampler(models.family, steps, scale, negative_prompt=negative)

    key = ("teacher", steps, *_common(request), scale, negative)
    return Column(key, "Teacher", f"{steps} steps, guidance {scale:g}", steps, sampler)


def student_column(models: EvaluationSet, student: Student, request: Request, steps: int) -> Column:
    """Return a student's column at one of the numbers of steps that it was trained for.

    Raises:
        UserError: if it was not trained for that number.
    """
    contract, strength = student.contract, request.strength
    contract.timesteps(steps)
    scale, negative = 1.0, ""
    if contract.takes_guidance:
        scale, negative = request.guidance_scale, request.negative_prompt

    def sampler() -> ImageSampler:
        network = blended_network(models.family, contract, student.weights, strength)
        pipeline = FewStepPipeline(models.family, contract, (models.family, network))
        return pipeline.sampler(steps, scale, negative)

    title = method_title(contract.method["name"])
    titles = [method_title(other.contract.method["name"]) for other in models.students]
    if titles.count(title) > 1:
        title = f"{title} ({student.source})"
    note = counted(steps, "step") + (f", guidance {scale:g}" if scale > 1 else "")
    note += "" if strength == 1 else f", {strength:.0%} student"
    key = (student.source, steps, *_common(request), scale, negative, strength)
    return Column(key, title, note, steps, sampler)


def _common(request: Request) -> tuple[object, ...]:
    return request.prompt, request.seed, request.num_images, request.with_strip


def fill(
    columns: Sequence[Column], request: Request, resolution: int, known: Sequence[Column] = ()
) -> Iterator[list[Column]]:
    """Yield all columns after each step of any; those with fewer steps first.

    Columns that are `known`, from a request before, are taken as they are. Whoever stops iterating
    stops the work.
    """
    finished = {column.key: column for column in known if column.images}
    shown = [finished.get(column.key, column) for column in columns]
    yield shown
    for place in sorted(range(len(shown)), key=lambda place: shown[place].total):
        if not shown[place].images:
            for column in grow(shown[place], request, resolution):
                shown = [*shown[:place], column, *shown[place + 1 :]]
                yield shown


def grow(column: Column, request: Request, resolution: int) -> Iterator[Column]:
    """Yield a column after each of its steps, and last with its images."""
    sampler, number = column.sampler(), request.num_images
    generators = image_generators(request.seed, number)
    steps = sampler.trajectory([request.prompt.strip()] * number, generators, resolution)
    kept, seconds = [], 0.0
    for done, (x_s, duration) in enumerate(timed(steps)):
        seconds += duration
        kept.append(x_s)
        if done < column.total:
            yield replace(column, done=done)
    clock = time.perf_counter()
    pixels = sampler.decode(finite_latents(kept[-1])).numpy()
    seconds += time.perf_counter() - clock
    settings = {"Steps": column.total, "Model": f"{column.title}, {column.note}"}
    images = tuple(
        SampledImage(Image.fromarray(image), request.prompt.strip(), request.seed + i,
                     sampler.nfe, request.negative_prompt, settings)
        for i, image in enumerate(pixels)
    )  # fmt: skip
    strip = ()
    if request.with_strip:
        strip = tuple(
            Image.fromarray(image.numpy())
            for x_s in spread(kept)
            for image in sampler.decode(x_s[:1])
        )
    yield replace(column, done=column.total, images=images, strip=strip, seconds=seconds / number)


def timed(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Yield each item with the seconds that it took to make, those of the caller left out."""
    while True:
        clock = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - clock


def spread(items: Sequence[Item], most: int = STRIP) -> list[Item]:
    """Return at most so many items, evenly spaced, the first and the last among them.

    >>> spread(range(51), 6)
    [0, 10, 20, 30, 40, 50]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def allowed_steps(student: Student) -> list[tuple[int, str]]:
    """Return numbers of steps, each with the reason why it is not possible, or an empty one."""
    contract = student.contract
    possible = {steps for steps in contract.sampling_timesteps if steps <= TEACHER_STEPS}
    found = []
    for steps in sorted(possible | set(range(1, 9))):
        try:
            contract.timesteps(steps)
            found.append((steps, ""))
        except UserError as error:
            found.append((steps, str(error)))
    return found
