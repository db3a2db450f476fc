"""InvokeAI: its own nodes, on what its own model manager recognises and loads.

The nodes are those of its graph for Stable Diffusion 1.5, with a context that keeps tensors in
memory. The noise is its own, of the seed, in fp32 as on every processor; torch draws the same. The
fresh noise of LCM is given. torchvision has to be built for the torch beside it.
"""

# pyright: reportMissingImports=false
import gc
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.programs import in_diffusers, reader
from benchmarks.programs.reader import (
    BASE,
    CD,
    DIFFUSERS_LORA,
    FOLDER,
    KOHYA_LORA,
    MULTI,
    PEFT_LORA,
    Loader,
    report,
    rows,
)  # fmt: skip

ENVIRONMENTS = {
    "invokeai": ("invokeai==6.14.2", "torch==2.13.0", "torchvision==0.28.0", "transformers==5.5.4")
}
SETTINGS = (
    "4 steps, CFG 1, scheduler DDIM, of CD LCM with its fresh noise given; LoRA files beside the "
    "base model with the student's scheduler file"
)
MODEL = reader.TWO_LEVELS
NOT_READ = {"invokeai": {(MULTI, DIFFUSERS_LORA), (MULTI, PEFT_LORA)}}
"""What it recognises as no model, so that it cannot be chosen: the base model alone is sampled."""


class Store(dict[str, Any]):
    """What nodes save, by name."""

    def save(self, *given: Any, **named: Any) -> str:
        name = str(len(self))
        (self[name],) = (*given, *named.values())
        return name

    def load(self, name: str) -> Any:
        return self[name]

    def save_image(self, image: Any) -> Any:
        size = {"width": image.width, "height": image.height}
        return SimpleNamespace(image_name=self.save(image), **size)


def model_loader() -> Any:
    """Return InvokeAI's loader of models, on the processor."""
    from invokeai.app.services.config.config_default import get_config
    from invokeai.app.services.model_load.model_load_default import ModelLoadService
    from invokeai.backend.model_manager.load.model_cache.model_cache import ModelCache

    config = get_config()
    config.device = "cpu"
    cache = ModelCache(
        execution_device_working_mem_gb=config.device_working_mem_gb,
        enable_partial_loading=config.enable_partial_loading,
        keep_ram_copy_of_weights=config.keep_ram_copy_of_weights,
        execution_device="cpu",
        shared_cpu_weights=None,
    )
    return ModelLoadService(config, cache)


def context(models: dict[str, Any]) -> Any:
    """Return what nodes are given, for models that InvokeAI has recognised."""
    from invokeai.app.services.config.config_default import get_config

    loader, images = model_loader(), Store()

    def load(given: Any) -> Any:
        return loader.load_model(models[given.key], given.submodel_type)

    def ignore(*_: Any) -> None:
        """There is no one to tell."""

    return SimpleNamespace(
        models=SimpleNamespace(
            exists=models.__contains__, get_config=models.__getitem__, load=load
        ),
        tensors=Store(),
        conditioning=Store(),
        images=SimpleNamespace(save=images.save_image, load=images.load),
        config=SimpleNamespace(get=get_config),
        util=SimpleNamespace(signal_progress=ignore, sd_step_callback=ignore),
    )


class Pipeline:
    """InvokeAI's nodes, called as diffusers' pipeline is. A LoRA has to be one of SD 1's."""

    def __init__(self, model: Path, scheduler: str, lora: Path | None = None) -> None:
        from invokeai.app.invocations import model as nodes

        self.scheduler, self.num_patched = scheduler, 0
        self.known: dict[str, Any] = {}
        self.context = context(self.known)
        loader = nodes.MainModelLoaderInvocation(model=self.recognised(model))
        self.model = loader.invoke(self.context)
        if lora is None:
            return
        found = self.recognised(lora)
        if (found.type, found.base) == ("lora", "sd-1"):
            given = {"unet": self.model.unet, "clip": self.model.clip}
            loaded = nodes.LoRALoaderInvocation(lora=found, weight=1, **given).invoke(self.context)
            self.model.unet, self.model.clip = loaded.unet, loaded.clip

    def recognised(self, path: Path) -> Any:
        """Return what InvokeAI takes a file or folder for."""
        from invokeai.app.invocations.model import ModelIdentifierField
        from invokeai.backend.model_manager.configs.factory import ModelConfigFactory

        config = ModelConfigFactory.from_model_on_disk(path).config
        self.known[config.key] = config
        return ModelIdentifierField.from_config(config)

    def part(self, field: Any) -> Any:
        """Return a loaded network."""
        return self.context.models.load(field).model

    def set_progress_bar_config(self, **_: Any) -> None:
        """Its bars go to the error stream."""

    def __call__(self, prompt: str, *, generator: torch.Generator, **given: Any) -> Any:
        """Sample an image of [height, width, 3], from 0 to 1."""
        from diffusers.schedulers import scheduling_lcm
        from invokeai.app.invocations.compel import CompelInvocation
        from invokeai.app.invocations.denoise_latents import DenoiseLatentsInvocation
        from invokeai.app.invocations.latents_to_image import LatentsToImageInvocation
        from invokeai.app.invocations.noise import NoiseInvocation

        size = {"width": given["width"], "height": given["height"]}
        noise = NoiseInvocation(seed=generator.initial_seed(), **size).invoke(self.context).noise
        first = self.context.tensors.load(noise.latents_name)
        torch.randn(first.shape, generator=generator)  # the fresh noise comes after it
        scheduling_lcm.randn_tensor = lambda shape, **_: torch.randn(shape, generator=generator)
        positive, negative = (
            CompelInvocation(prompt=text, clip=self.model.clip).invoke(self.context).conditioning
            for text in (prompt, "")
        )
        asked: list[int] = []

        def note(network: torch.nn.Module, inputs: tuple) -> None:
            asked.append(int(inputs[1].flatten()[0]))
            layers = (m for m in network.modules() if hasattr(m, "get_num_patches"))
            self.num_patched = sum(layer.get_num_patches() > 0 for layer in layers)

        hook = self.part(self.model.unet.unet).register_forward_pre_hook(note)
        latents = DenoiseLatentsInvocation(
            positive_conditioning=positive, negative_conditioning=negative, noise=noise,
            steps=given["num_inference_steps"], cfg_scale=given["guidance_scale"],
            scheduler=self.scheduler, unet=self.model.unet,
        ).invoke(self.context).latents  # fmt: skip
        hook.remove()
        for t in asked:
            given["callback_on_step_end"](None, 0, t, {})
        decoder = LatentsToImageInvocation(latents=latents, vae=self.model.vae, fp32=True)
        image = self.context.images.load(decoder.invoke(self.context).image.image_name)
        return SimpleNamespace(images=[np.asarray(image.convert("RGB")) / 255])


def scheduler(case: Path) -> str:
    return "lcm" if case.name == CD else "ddim"


def load(case: Path) -> Pipeline:
    gc.collect()
    return Pipeline(case / FOLDER, scheduler(case))


def load_lora(file: str, base: Path) -> Loader:
    """Return what loads a LoRA file beside `base`, a copy of the base model."""

    def load(case: Path) -> Pipeline:
        gc.collect()
        shutil.copytree(case / "scheduler", base / "scheduler", dirs_exist_ok=True)
        return Pipeline(base, scheduler(case), case / file)

    return load


def keys(pipeline: Pipeline, case: Path) -> list[int]:
    """Return how many of the folder's tensors the networks have, and how many there are."""
    model = pipeline.model
    fields = (model.unet.unet, model.clip.text_encoder, model.vae.vae)
    unet, text_encoder, vae = map(pipeline.part, fields)
    return in_diffusers.keys(SimpleNamespace(unet=unet, text_encoder=text_encoder, vae=vae), case)


def lora_keys(pipeline: Pipeline, case: Path) -> list[int]:
    """Return how many layers have a LoRA, and how many the student has."""
    from safetensors.torch import load_file

    trained = load_file(case / PEFT_LORA)
    return [pipeline.num_patched, sum(name.endswith("lora_A.weight") for name in trained)]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    files = {KOHYA_LORA: (MULTI, CD), DIFFUSERS_LORA: (MULTI,), PEFT_LORA: (MULTI,)}
    found = list(rows({str(FOLDER): load}, keys=keys))
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        base = shutil.copytree(Path(sys.argv[1]) / BASE, Path(folder) / BASE)
        for file, students in files.items():
            found += rows({file: load_lora(file, base)}, students, lora_keys)
    sys.stdout.write("\n")
    report(("invokeai", "diffusers", "transformers"), found)
