"""How fast images are sampled: fewstep against diffusers' own pipeline with the same LoRA.

    python -m benchmarks.speed_sampling --model tiny --threads 1 \\
        -o benchmarks/results/sampling.json
    python -m benchmarks.speed_sampling --model sd15 --device cuda --precision fp16 \\
        -o benchmarks/results/sampling_gpu.json
    python -m benchmarks.speed_sampling --model sd15 --resolution 256 --batch-sizes 1 --rounds 5 \\
        --threads 2 --designs "diffusers, LoRA fused" fewstep "fewstep, OpenVINO" \\
        "fewstep, OpenVINO int8" "fewstep, OpenVINO bf16" \\
        -o benchmarks/results/sampling_cpu_sd15.json

From prompts to images, including text encoder and decoder. Every design is timed in alternation
with the first one, after a check that it generates the same images from the same noise. The tiny
decoder has random weights, on which its speed does not depend.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from benchmarks.speed_own import components
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import PROMPTS, Setting, fill_lora, in_plain_layout, network_bytes
from fewstep.diffusion.random import Draw
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.tiny_decoder import default_channels, new_decoder, with_vae
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.seeds import image_generators
from fewstep.training.artefact import write_artefact

STEPS, TEACHER_STEPS = 4, 50
ARTEFACT = "artefact"
OPENVINO = {
    "fewstep, OpenVINO": "openvino",
    "fewstep, OpenVINO int8": "openvino-int8",
    "fewstep, OpenVINO bf16": "openvino",
}
"""The designs that OpenVINO computes, and the folders of their exports. That in bf16 is beside any
precision of the others."""
Generate = Callable[[], Tensor]
"""Returns images as uint8 [batch, H, W, 3]."""


def diffusers_pipeline(
    setting: Setting, lora: bool, fused: bool = False
) -> StableDiffusionPipeline:
    """Return diffusers' pipeline with DDIM steps, and the student's LoRA loaded or fused."""
    pipe = StableDiffusionPipeline.from_pretrained(setting.folder, torch_dtype=setting.half)
    config = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **config)
    pipe.set_progress_bar_config(disable=True)
    if lora:
        pipe.load_lora_weights(Path(setting.folder) / ARTEFACT)
    if fused:
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipe.to(setting.device)


def by_diffusers(
    setting: Setting,
    *,
    lora: bool = True,
    fused: bool = False,
    compiled: bool = False,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
) -> tuple[Generate, list[nn.Module]]:
    pipe = diffusers_pipeline(setting, lora, fused)
    if compiled:
        pipe.unet.compile()
    prompts = (PROMPTS * setting.batch_size)[: setting.batch_size]
    like = torch.empty(setting.batch_size, *setting.latent_shape)
    noise = Draw(image_generators(0, len(prompts))).noise_like(like)

    def generate() -> Tensor:
        images = pipe(
            prompts, num_inference_steps=steps, guidance_scale=guidance_scale,
            latents=noise.to(setting.device, setting.half), output_type="np",
            height=setting.resolution, width=setting.resolution,
        ).images  # fmt: skip
        return torch.from_numpy((images * 255).round()).to(torch.uint8)

    return generate, [pipe.unet, pipe.vae, pipe.text_encoder]


def by_fewstep(
    setting: Setting,
    *,
    compiled: bool = False,
    plain_layout: bool = False,
    half_decoder: bool = False,
    tiny_decoder: bool = False,
) -> tuple[Generate, list[nn.Module]]:
    pipeline = FewStepPipeline.from_pretrained(
        Path(setting.folder) / ARTEFACT, device=setting.device, dtype=setting.half
    )
    sampler = pipeline.sampler(STEPS)
    family, network = pipeline.student
    if plain_layout:
        in_plain_layout(family)
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if compiled:
        network.compile()
    prompts = (PROMPTS * setting.batch_size)[: setting.batch_size]
    networks = [network, *family.vae_and_text_encoder]
    if tiny_decoder:
        tiny = new_decoder(with_vae(family), default_channels(with_vae(family)))
        sampler = replace(sampler, family=replace(with_vae(family), decoder=tiny))
        networks = [network, tiny, *family.vae_and_text_encoder[1:]]

    @torch.no_grad()
    def generate() -> Tensor:
        latents = sampler.latents(prompts, image_generators(0, len(prompts)), setting.resolution)
        with setting.autocast() if half_decoder else nullcontext():
            return sampler.decode(latents)

    return generate, networks


def by_openvino(setting: Setting, name: str) -> tuple[Generate, list[nn.Module]]:
    pipeline = FewStepPipeline.from_pretrained(
        Path(setting.folder) / OPENVINO[name],
        device=setting.device,
        dtype=torch.bfloat16 if "bf16" in name else setting.half,
        backend="openvino",
    )
    sampler = pipeline.sampler(STEPS)
    prompts = (PROMPTS * setting.batch_size)[: setting.batch_size]

    def generate() -> Tensor:
        generators = image_generators(0, len(prompts))
        return sampler.decode(sampler.latents(prompts, generators, setting.resolution))

    return generate, []


DESIGNS: dict[str, Callable[[Setting], tuple[Generate, list[nn.Module]]]] = {
    "diffusers, LoRA": by_diffusers,
    "diffusers, LoRA fused": lambda setting: by_diffusers(setting, fused=True),
    "diffusers, LoRA fused, compiled": lambda setting: by_diffusers(
        setting, fused=True, compiled=True
    ),
    "fewstep": by_fewstep,
    "fewstep, plain layout": lambda setting: by_fewstep(setting, plain_layout=True),
    "fewstep, half decoder": lambda setting: by_fewstep(setting, half_decoder=True),
    "fewstep, compiled": lambda setting: by_fewstep(setting, compiled=True),
    "fewstep, tiny decoder": lambda setting: by_fewstep(setting, tiny_decoder=True),
    **{name: partial(by_openvino, name=name) for name in OPENVINO},
    "diffusers, teacher": lambda setting: by_diffusers(
        setting, lora=False, steps=TEACHER_STEPS, guidance_scale=setting.guidance_scale
    ),
}
"""The first is the baseline."""
OTHER_IMAGES = {"diffusers, teacher", "fewstep, tiny decoder", "fewstep, OpenVINO int8",
                "fewstep, OpenVINO bf16"}  # fmt: skip
"""The designs whose images differ from the baseline's."""


def distinct_designs(precision: str) -> list[str]:
    """Return the designs that differ in this precision, and for which all is installed."""
    left_out = {"fewstep, half decoder"} if precision == "fp32" else set()
    if precision == "fp16" or find_spec("openvino") is None:
        left_out |= OPENVINO.keys()
    if precision == "bf16":
        left_out.add("fewstep, OpenVINO bf16")
    return [name for name in DESIGNS if name not in left_out]


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Build a design and generate images, which are its output."""
    setting.begin()
    generate, networks = DESIGNS[name](setting)
    images = {} if name in OTHER_IMAGES else {"images": generate()}

    def static_bytes() -> int:
        files = Path(setting.folder, OPENVINO[name]).rglob("*.bin") if name in OPENVINO else ()
        return network_bytes(networks) + sum(file.stat().st_size for file in files)

    serve(pipe, setting, name, generate, images, static_bytes, counts=name not in OPENVINO)


def write_student(setting: Setting, designs: Sequence[str] = ()) -> None:
    """Write an artefact with a random LoRA, as `fewstep distill` would, and what designs need."""
    parts = components(setting, "fp32", method="multi-boundary-cd")
    fill_lora(parts.state.averaged)
    write_artefact(parts)
    del parts
    for name in {OPENVINO[design] for design in designs if design in OPENVINO}:
        options = ExportOptions(openvino=True, int8="int8" in name)
        folder = Path(setting.folder)
        export_artefact(str(folder / ARTEFACT), folder / name, options)


if __name__ == "__main__":
    args = arguments(__doc__, list(DESIGNS), batch_sizes=[1, 16], steps=1)
    designs = args.designs or distinct_designs(args.precision)
    path = measure(args, work, designs, prepare=partial(write_student, designs=designs))
    print(f"wrote {path} and its plot")
