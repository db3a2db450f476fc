"""Write docs/use-it-in.md and the workflows beside it, from the contracts of three students.

python -m tools.use_it_in
"""

import json
from pathlib import Path

from fewstep.export.comfyui import workflow
from fewstep.export.sampling_guides import PROMPT_NOTE, guide_table
from fewstep.files import write_file
from fewstep.methods import (
    METHODS,
    ConsistencyDistillation,
    Method,
    MultiBoundaryDistillation,
)
from fewstep.models.architectures import SCHEDULER
from fewstep.student.contract import Contract
from tools.figures import filled

ROOT = Path(__file__).resolve().parent.parent
PAGE, WORKFLOWS = "docs/use-it-in.md", "docs/assets"
WRONG = ROOT / "benchmarks" / "results" / "wrong_settings.json"
STUDENTS = {
    "multi-boundary-cd": MultiBoundaryDistillation(),
    "cd": ConsistencyDistillation(),
    "quadratic": MultiBoundaryDistillation(spacing="quadratic"),
}
TITLES = {
    "multi-boundary-cd": "A multi-boundary student: one jump per segment, no noise in between",
    "cd": "A CD or CT student: fresh noise between the jumps",
    "quadratic": "A multi-boundary student with quadratic timesteps",
}

XL = (
    ("program", "file", "what SDXL needs there", "source"),
    ("---",) * 4,
    ("diffusers, text-to-image", "every file", "nothing more", "run, on a tiny SDXL"),
    ("diffusers, image-to-image, inpainting, ControlNet", "every file", "nothing more", "derived"),
    ("ComfyUI", "`NAME.safetensors`",
     "its keys are SDXL's block names, `lora_unet_input_blocks_4_1_…`", "derived"),
    ("A1111, Forge", "`NAME.safetensors`",
     "the same keys; `--no-half-vae` where the VAE overflows in fp16", "derived"),
    ("every other program above", "as above", "not known", "derived"),
)  # fmt: skip
"""Where a student of SDXL is used, and whether that was run."""

PAGE_TEXT = """\
# Use it in …

<!-- Written by `python -m tools.use_it_in`; do not edit. -->

An artefact contains the student in the file format of every program below, and its contract,
`fewstep.json`, lists the timesteps for sampling. `fewstep export RUN -o DIR` writes all of it.
This page is generated from the contracts of three students of Stable Diffusion 1.5 with default
settings, except for the `spacing` of the last one.
The model card of each artefact has the same table for its own student.

Two rules hold everywhere. **Guidance is 1** (CFG 1, no negative prompt): it was distilled into the
student. **Use the number of steps and the sampler of the student**: another sampler makes jumps
that the student was not trained for, and the image looks wrong without an error message.

"Exact" is computed: the timesteps of the program and its jump targets are those of the student.
"Near" says what differs; [below](#what-a-wrong-setting-changes) is how much.
"Run" names the version in which a student of random weights gave fewstep's own image;
[every such run](#what-was-run) is listed below.

{prompt_note}

{students}
## What was run

<!-- figures: programs -->
<!-- end -->

## What a wrong setting changes

{wrong_settings}

## From Python

```python
from fewstep.student.pipeline import FewStepPipeline

pipeline = FewStepPipeline.from_pretrained("DIR")  # or a Hub id; base= is a copy of the base model
sampled = pipeline("a lighthouse at dusk", seed=7, num_images_per_prompt=2)
sampled.images[1]  # what seed=8 gives alone, here and by generator=manual_seed(8) in diffusers
sampled[1].save("lighthouse.png")  # with its settings in A1111's format

pipeline("a lighthouse at dusk", image=sketch, strength=0.75)  # image to image
FewStepPipeline.from_pretrained("DIR", loras={{"ink.safetensors": 0.8}})  # with a style LoRA
```

Inside diffusers' own pipelines, text-to-image, image-to-image, inpainting, ControlNet and
AnimateDiff:

```python
from fewstep.student.scheduler import FewStepScheduler

pipe = StableDiffusionPipeline.from_pretrained("the base model")
pipe.load_lora_weights("DIR", weight_name="pytorch_lora_weights.safetensors")
pipe.scheduler = FewStepScheduler.from_artefact("DIR")
image = pipe("a lighthouse at dusk", num_inference_steps=4, guidance_scale=1).images[0]
```

Each of these pipelines is run in fewstep's tests. AnimateDiff takes the LoRA after it has made its
own UNet, so load it last. With torchao (0.18.0 was tried, int8 weights) the LoRA file loads over
the quantised UNet, or the UNet is quantised after `fuse_lora()`; the scheduler needs nothing.

It is exact for every number of segments and steps and every spacing of timesteps. The stock
schedulers in the tables that take a number of steps need one that divides the 1000 timesteps.

With PEFT alone:

```python
unet = UNet2DConditionModel.from_pretrained("the base model", subfolder="unet")
unet = PeftModel.from_pretrained(unet, "DIR")
```

## With a style LoRA

A style LoRA is loaded beside the speed LoRA, each with its weight. On the bundled world PEFT
trained a style on the teacher, a black ground whatever the caption, and diffusers loaded both:

<!-- figures: style-lora -->
<!-- end -->

Leave the speed LoRA at 1: below it fewer images show their prompt, and hardly more of them the
style. The style's own weight is free, and the share of images that show it rises with it. At 1 and
1 the multi-boundary student shows the style nearly as often as the teacher in 50 steps, the
matched one less often; prompt accuracy falls by some points, as the teacher's does. Prompts that
name a ground are left out. ComfyUI does not load a model of this shape; the weights mean the same
there: a random speed LoRA and a random second one give diffusers' images, at the weights above
([run](#what-was-run)).

## Stable Diffusion XL

The noise levels of SDXL are those of Stable Diffusion 1.5, and so are the timesteps, samplers and
settings of the tables above. In diffusers' own pipelines it is the code above, with
`StableDiffusionXLPipeline` and the SDXL base.

{xl}

"Derived" was not run: the tests compare every key of the file with the names of SDXL's own
checkpoint, and none is left over. Do without SDXL's refiner: it has steps of its own.

## Negative prompts

A student with distilled guidance cannot use them. `configs/guidance-free.toml` trains one that
supports guidance and negative prompts: its teacher has no guidance (`teacher.guidance_scale = 1`)
and some captions are dropped (`data.caption_dropout = 0.1`), so that it learns the empty prompt. It
is then sampled with `guidance_scale` above 1, at two network evaluations per step.

## Programs that load whole models

`fewstep export RUN -o DIR --fused` writes `DIR/fused/diffusers/`, a diffusers folder with the
student fused into the base model and the right scheduler, and `--checkpoint` writes
`DIR/fused/NAME-fused.safetensors`, one file in the layout of Stable Diffusion's first release.
The folder opens in transformers from 4.44 on; `--precision fp16` halves every network in both.
For a student with quadratic timesteps the folder has no scheduler, as none of diffusers' own reads
timesteps from its file: pass `scheduler=FewStepScheduler.from_artefact("DIR")` to
`from_pretrained`.
Neither contains a safety checker: pass the base model's. The folder has its own contract, so that
`fewstep sample DIR/fused/diffusers` samples it as a student, not as a teacher.

## Does it read right?

`fewstep export RUN -o DIR --check diffusers` loads what was just written into an installed program,
compares it with fewstep's own student, a LoRA layer by layer and a whole model by an image, and
fails if anything is off. It knows `diffusers` and `peft`, and with `--fused` `onnx` (pip install
optimum-onnx) and `openvino` (pip install 'optimum-intel[openvino]'). `--check` may be repeated.

## On the Hub

    fewstep push DIR you/name --dry-run     # list the files and sizes, without network
    fewstep push DIR you/name               # private; --public makes it public

Only the files listed in the contract, the contract and the card are uploaded, and nothing else in
the folder; the whole models in `fused/` are included with `--fused`. The checksum of each file has
to match the contract. An artefact that is already in the repository is replaced. The token comes
from `hf auth login` or `HF_TOKEN`.

## How this is tested

`python benchmarks/load_matrix.py` loads each file in each library that runs without a display, in
current versions and in diffusers 0.30.3 with PEFT 0.8.2, for every preset, with alpha different
from the rank, in fp32 and fp16, with a wrong file that has to fail, and writes
`benchmarks/results/load_matrix.json`. `python benchmarks/whole_models.py` samples
`fused/diffusers/` and the single file in diffusers 0.30.3, 0.35.2, 0.40.0 and 0.42.1 with
transformers 4.44.2, 4.57.6, 5.5.4 and 5.23.0; each gives the student's own image
(`benchmarks/results/whole_models.json`). FewStepScheduler is tested in diffusers' own pipelines.
sd-scripts' `networks/merge_lora.py` makes of `NAME.safetensors` the UNet of `fewstep export
--checkpoint`, to the bit; the names of the other two LoRA files it passes over.
stable-diffusion.cpp draws PyTorch's noise with `--rng cpu`; its Python package needs
`sampler_rng_type="cpu"` as well.
For the other programs the tests compare the names in the files with Stable Diffusion's layout, and
the timesteps with their rules.
"""

STUDENT_TEXT = """\
## {title}

`{method}`, {steps} steps, at timesteps {starts}.

{table}

For ComfyUI: drag [this workflow](assets/{workflow}) onto the canvas, and choose the base model and
the LoRA.

"""


def wrong_settings() -> str:
    """Return the measured differences in Markdown."""
    results = json.loads(WRONG.read_text(encoding="utf-8"))
    lines = ["| student | setting | latents, rms | pixels, mean (largest) of 255 | prompts right |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in results["rows"]:
        right = row["prompt_accuracy"]
        lines.append(
            f"| {row['student']} | {row['setting']} | {row['latents_rms']:.4f} "
            f"| {row['pixels_mean']:.2f} ({row['pixels_largest']:.0f}) "
            f"| {right['value']:.1%} ({right['low']:.1%} to {right['high']:.1%}) |"
        )
    own = [row["latents_std"] for row in results["rows"] if row["setting"] == "as trained"]
    note = (
        f"Bundled students of 150 steps, n = {results['n']} prompts, one noise; 95 % intervals.\n"
        f"The students' latents have deviation {min(own):.2f} to {max(own):.2f}. Measured by\n"
        f"`{results['command']}`, which imitates each setting."
    )
    return "\n".join([*lines, "", note])


def contract_of(method: Method) -> Contract:
    """Return the contract of a student of Stable Diffusion 1.5."""
    name = next(name for name, kind in METHODS.items() if isinstance(method, kind))
    return Contract.of(name, method, 8.0, SCHEDULER, data={"resolution": 512})


def pages() -> dict[str, str]:
    """Return every file's text by its path."""
    written, students = {}, []
    for student, method in STUDENTS.items():
        contract = contract_of(method)
        name = f"comfyui-{student}.json"
        written[f"{WORKFLOWS}/{name}"] = workflow(contract, "NAME.safetensors")
        students.append(
            STUDENT_TEXT.format(
                title=TITLES[student],
                method=contract.method["name"],
                steps=contract.default_num_steps,
                starts=", ".join(map(str, contract.timesteps())),
                table=guide_table(contract, "NAME"),
                workflow=name,
            )
        )
    return {
        PAGE: filled(
            PAGE_TEXT.format(
                prompt_note=PROMPT_NOTE,
                students="".join(students),
                wrong_settings=wrong_settings(),
                xl="\n".join(f"| {' | '.join(row)} |" for row in XL),
            )
        )
    } | written


if __name__ == "__main__":
    for path, text in pages().items():
        write_file(ROOT / path, text)
