"""`fewstep sample`: prompts become pictures, at the timesteps of the artefact's contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.errors import UserError
from fewstep.evaluation.grid import grid, png
from fewstep.files import check_writable, write_file
from fewstep.models.loading import default_device, load_model
from fewstep.sampling.contract import CONTRACT_FILE
from fewstep.sampling.painter import TEACHER_GUIDANCE, TEACHER_STEPS, Painter, teacher_painter
from fewstep.sampling.pipeline import FewStepPipeline


def paint_file(
    source: str,
    prompts: Sequence[str],
    prompt_file: Path | None,
    *,
    seed: int,
    num_steps: int | None,
    guidance_scale: float | None,
    base: str | None,
    out: Path,
) -> str:
    """Paint the prompts into the file `out`, several as a grid; return what was done, in words.

    Raises:
        UserError: if there is no prompt, or the source cannot paint with these settings.
    """
    prompts = gather_prompts(prompts, prompt_file)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}, and pictures are written as PNG; name it .png")
    check_writable(out.parent)
    opened = open_source(source, num_steps, guidance_scale, base)
    check_words(opened.base, prompts)
    painter = opened.painter
    pictures = painter.decode(painter.latents(prompts, seed, opened.resolution)).numpy()
    if len(prompts) == 1:
        write_file(out, png(pictures[0]))
    else:
        title = f"{len(painter.timesteps)} steps, {painter.calls} network calls, seed {seed}"
        write_file(out, png(grid({title: pictures}, prompts)))
    starts = ", ".join(map(str, painter.timesteps[:4]))
    starts += " …" if len(painter.timesteps) > 4 else ""
    return f"wrote {out}: {painter.calls} network calls a picture, starting at timesteps {starts}"


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


@dataclass(frozen=True)
class Source:
    """What paints: a student or a teacher, the side of its pictures, and the model it stands on."""

    painter: Painter
    resolution: int
    base: str


def open_source(
    source: str,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    base: str | None = None,
) -> Source:
    """Open a run, an artefact or a plain model for painting.

    Raises:
        UserError: if the source is none of them, or does not know these settings.
    """
    device = default_device()
    folder = Path(source)
    if (folder / "config.toml").is_file() and not (folder / "artefact").is_dir():
        raise UserError(f"{source} is not trained to its end; run its fewstep distill again first")
    if not any((folder / part / CONTRACT_FILE).is_file() for part in ("", "artefact")):
        family = load_model(source, device=device)
        scale = TEACHER_GUIDANCE if guidance_scale is None else guidance_scale
        steps = TEACHER_STEPS if num_steps is None else num_steps
        try:
            painter = teacher_painter(family, steps, scale)
        except ValueError as error:  # the maths names the value and the range
            raise UserError(str(error)) from error
        return Source(painter, family.default_resolution, source)
    if guidance_scale is not None:
        raise UserError(
            f"{source} is a student: its guidance was distilled into it and cannot be changed; "
            "leave --guidance-scale out"
        )
    pipeline = FewStepPipeline.from_pretrained(folder, base=base, device=device)
    return Source(pipeline.painter(num_steps), pipeline.resolution, pipeline.contract.base["id"])


def check_words(base: str, prompts: Sequence[str]) -> None:
    """Refuse words outside the bundled teacher's closed vocabulary.

    Raises:
        UserError: naming the words, and those that it knows.
    """
    if base != "bundled":
        return
    from fewstep.bundled.captions import all_words
    from fewstep.bundled.vocabulary import unknown_words

    if unknown := sorted({word for prompt in prompts for word in unknown_words(prompt)}):
        raise UserError(
            f"the bundled teacher does not know {', '.join(map(repr, unknown))}; it knows: "
            f"{', '.join(all_words())}"
        )
