"""A style LoRA and the speed LoRA together, in diffusers: which weights hold.

    python -m benchmarks.style_lora RUN [RUN …] -o benchmarks/results/style_lora.json

PEFT trains the style as people train theirs, with the noise prediction loss, on scenes of the
bundled world whose ground is black whatever their caption. Each RUN is a bundled student, whose
`pytorch_lora_weights.safetensors` is loaded beside it. Prompts that name a ground are left out:
the style decides it. The teacher in 50 steps, with the style and without, is the comparison.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from fewstep.evaluation.intervals import proportion
from fewstep.evaluation.metrics.prompt_accuracy import all_right, verdicts
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file
from fewstep.models.loading import bundled_folder
from fewstep.student.load import read_contract
from fewstep.student.scheduler import FewStepScheduler
from fewstep.world.captions import describe
from fewstep.world.parser import read
from fewstep.world.scenes import render, sample_scene
from fewstep.world.sentences import claims

GROUND = "black"
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
WEIGHTS = ((1.0, 0.0), (1.0, 0.5), (1.0, 0.75), (1.0, 1.0), (0.75, 1.0), (0.5, 1.0), (0.0, 1.0))
"""Of speed and style; the last asks what the style alone does in the student's few steps."""
GUIDANCE, BATCH = 2.0, 50


def pipeline() -> Any:
    """Return the bundled teacher as diffusers loads it."""
    pipe = StableDiffusionPipeline.from_pretrained(bundled_folder(), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def styled_scenes(count: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Return scenes [count, height, width, 3] on the style's ground, and captions without it."""
    rng, images, captions = np.random.default_rng(seed), [], []
    while len(images) < count:
        scene = sample_scene(rng)
        if claims(caption := describe(scene, rng)).background is None:
            images.append(render(replace(scene, background=GROUND)))
            captions.append(caption)
    return np.stack(images), captions


def encoded(pipe: Any, images: NDArray[np.uint8], captions: list[str]) -> tuple[torch.Tensor, ...]:
    """Return scaled latents, and the embeddings of the captions."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = torch.cat([pipe.vae.encode(part).latent_dist.mean for part in pixels.split(BATCH)])
    text, _ = pipe.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)
    return latents * pipe.vae.config.scaling_factor, text


def train_style(folder: Path, steps: int, rank: int = 16, batch: int = 32) -> None:
    """Train the style and save it in diffusers' form."""
    pipe = pipeline()
    noise_levels = DDIMScheduler.from_config(pipe.scheduler.config)
    with torch.no_grad():
        latents, text = encoded(pipe, *styled_scenes(2000, seed=0))
        empty = encoded(pipe, np.zeros((1, 64, 64, 3), np.uint8), [""])[1]
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS))
    weights = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        rows = torch.randint(len(latents), (batch,))
        cond = torch.where(torch.rand(batch, 1, 1) < 0.1, empty, text[rows])
        noise, t = torch.randn_like(latents[rows]), torch.randint(1000, (batch,))
        x_t = noise_levels.add_noise(latents[rows], noise, t)  # type: ignore[arg-type]
        loss = (pipe.unet(x_t, t, cond).sample - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(pipe.unet))


@torch.no_grad()
def generate(pipe: Any, prompts: Sequence[str], steps: int, guidance: float) -> NDArray[np.uint8]:
    """Return an image a prompt, image i from seed i."""
    images = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        images.append(pipe(part, num_inference_steps=steps, guidance_scale=guidance,
                           generator=noise, output_type="np").images)  # fmt: skip
    return (np.concatenate(images) * 255).round().astype(np.uint8)


def measured(images: NDArray[np.uint8], prompts: Sequence[str]) -> dict[str, object]:
    """Return how many images show their prompt, and how many have the style's ground."""
    accuracy = proportion(all_right(verdicts(images, prompts)))
    styled = proportion([read(image).background == GROUND for image in images])
    return {"prompt_accuracy": asdict(accuracy), "style_share": asdict(styled)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--style", type=Path, default=Path("runs/style-lora"))
    parser.add_argument("--steps", type=int, default=400, help="of the style's training")
    parser.add_argument("--num", type=int, default=1000, help="prompts of the students")
    parser.add_argument("--num-teacher", type=int, default=400, help="prompts of the teacher")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if not (args.style / "pytorch_lora_weights.safetensors").exists():
        train_style(args.style, args.steps)
    found = (p for p in held_out_prompts(2 * args.num, 779) if claims(p).background is None)
    prompts = [prompt for prompt, _ in zip(found, range(args.num), strict=False)]
    rows: list[dict[str, object]] = []

    def add(student: str, speed: float, style: float, images: NDArray[np.uint8]) -> None:
        row = {"student": student, "speed": speed, "style": style}
        rows.append(row | measured(images, prompts[: len(images)]))
        print(rows[-1], flush=True)

    pipe = pipeline()
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    pipe.load_lora_weights(args.style, adapter_name="style")
    for style in (0.0, 1.0):
        pipe.set_adapters(["style"], [style])
        add(
            "teacher, 50 steps", 0, style, generate(pipe, prompts[: args.num_teacher], 50, GUIDANCE)
        )
    for run in args.runs:
        artefact = run / "artefact" if (run / "artefact").is_dir() else run
        pipe.load_lora_weights(artefact, weight_name="pytorch_lora_weights.safetensors",
                               adapter_name="speed")  # fmt: skip
        pipe.scheduler = FewStepScheduler.from_artefact(artefact)
        for speed, style in WEIGHTS:
            pipe.set_adapters(["speed", "style"], [speed, style])
            add(
                read_contract(artefact).method["name"],
                speed,
                style,
                generate(pipe, prompts, 4, 1.0),
            )
        pipe.delete_adapters(["speed"])
    header = {"command": f"python -m benchmarks.style_lora {' '.join(map(str, args.runs))} -o "
              f"{args.out}", "commit": commit(), "machine": machine()}  # fmt: skip
    results = header | {"style_steps": args.steps, "ground": GROUND, "rows": rows}
    write_file(args.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
