"""Write docs/use-it-in.md and the workflows beside it, from the contracts of three students.

python tools/use_it_in.py
"""

from pathlib import Path

from fewstep.export.card import guide_table
from fewstep.export.comfyui import workflow
from fewstep.files import write_file
from fewstep.methods import (
    METHODS,
    ConsistencyDistillation,
    Method,
    MultiBoundaryDistillation,
)
from fewstep.models.architectures import SCHEDULER
from fewstep.student.contract import Contract

ROOT = Path(__file__).resolve().parent.parent
PAGE, WORKFLOWS = "docs/use-it-in.md", "docs/assets"
STUDENTS = {
    "multi-boundary-cd": MultiBoundaryDistillation(),
    "cd": ConsistencyDistillation(),
    "quadratic": MultiBoundaryDistillation(spacing="quadratic"),
}
TITLES = {
    "multi-boundary-cd": "A multi-boundary student: one jump a segment, no noise in between",
    "cd": "A CD or CT student: fresh noise between the jumps",
    "quadratic": "A multi-boundary student of quadratic timesteps",
}

PAGE_TEXT = """\
# Use it in …

<!-- Written by `python tools/use_it_in.py`; do not edit. -->

An artefact holds the student in the file format of every program below, and its contract,
`fewstep.json`, says at which timesteps it is sampled. `fewstep export RUN -o DIR` writes all of it;
this page is made from the contracts of three students of Stable Diffusion 1.5, of default settings
but for the last one's `spacing`.
The model card of each artefact has the same table for its own.

Two rules hold everywhere. **Guidance is 1** (CFG 1, no negative prompt): it was distilled into the
student. **The number of steps and the sampler are the student's**: another sampler asks it for
jumps that it never learnt, and the image looks wrong without an error.

"Exact" is computed: the program's rule starts and lands each call where the student does. Errors in
parentheses are against that, for latents of unit variance.

{students}
## From Python

```python
from fewstep.student.pipeline import FewStepPipeline

pipeline = FewStepPipeline.from_pretrained("DIR")  # or a Hub id; base= names a copy of the base
image = pipeline("a lighthouse at dusk", seed=7)[0]
image.save("lighthouse.png")  # with its settings inside, as A1111 reads them

pipeline("a lighthouse at dusk", image=sketch, strength=0.75)  # image to image
FewStepPipeline.from_pretrained("DIR", loras={{"ink.safetensors": 0.8}})  # a style with it
```

Inside diffusers' own pipelines, text-to-image, image-to-image, ControlNet and others:

```python
from fewstep.student.scheduler import FewStepScheduler

pipe = StableDiffusionPipeline.from_pretrained("the base model")
pipe.load_lora_weights("DIR", weight_name="pytorch_lora_weights.safetensors")
pipe.scheduler = FewStepScheduler.from_artefact("DIR")
image = pipe("a lighthouse at dusk", num_inference_steps=4, guidance_scale=1).images[0]
```

It is exact for every number of segments and steps and every spacing of timesteps; of the stock
schedulers in the tables, those that are told a number of steps are for numbers that divide the 1000
timesteps.

With PEFT alone:

```python
unet = UNet2DConditionModel.from_pretrained("the base model", subfolder="unet")
unet = PeftModel.from_pretrained(unet, "DIR")
```

## Negative prompts

A student with guidance inside has no use for them. `configs/guidance-free.toml` trains one that
takes both: no guidance in its teacher (`teacher.guidance_scale = 1`) and some captions dropped
(`data.caption_dropout = 0.1`), so that it knows the empty prompt. It is then sampled with
`guidance_scale` above 1, at two network calls a step.

## Programs that load whole models

`fewstep export RUN -o DIR --fused` writes `DIR/fused/diffusers/`, a diffusers folder with the
student inside and the right scheduler (InvokeAI; quadratic timesteps have to be told), and
`--checkpoint` writes `DIR/fused/NAME-fused.safetensors`, one file in the layout of Stable
Diffusion's first release.
Neither holds a safety checker: pass the base model's. The folder has a contract of its own, so that
`fewstep sample DIR/fused/diffusers` samples it as the student that it is, and not as a teacher.

## On the Hub

    fewstep push DIR you/name --dry-run     # the files and their sizes; asks nobody
    fewstep push DIR you/name               # private; --public for everybody

What goes is the contract's list of files, the contract and the card, and nothing else that lies in
the folder; the whole models of `fused/` go with `--fused`. Each file has to be the one that the
contract was written for. An artefact that is in the repository already is replaced. The token is
that of `hf auth login` or of `HF_TOKEN`.

## Is it so?

`python benchmarks/load_matrix.py` puts each file through each reader that can run without a
display, in today's versions and in diffusers 0.30.3 with PEFT 0.8.2, for every preset, with alpha
unlike the rank, in fp32 and fp16, with a wrong file that has to fail, and writes
`benchmarks/results/load_matrix.json`. Sampling is tested in diffusers' own pipelines. ComfyUI,
A1111, Forge, InvokeAI and Draw Things cannot run there: for them the tests hold the names in the
files against Stable Diffusion's layout, and the timesteps against their rules.
"""

STUDENT_TEXT = """\
## {title}

`{method}`, {steps} steps, calls at timesteps {starts}.

{table}

For ComfyUI: drag [this workflow](assets/{workflow}) onto the canvas, and choose the base model and
the LoRA.

"""


def contract_of(method: Method) -> Contract:
    """Return what a student of Stable Diffusion 1.5 promises."""
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
    return {PAGE: PAGE_TEXT.format(students="".join(students))} | written


if __name__ == "__main__":
    for path, text in pages().items():
        write_file(ROOT / path, text)
