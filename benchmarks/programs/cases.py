"""The models and random students that programs are given, with the students' own images."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from benchmarks.programs import reader
from fewstep.export.artefact import Artefact
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.export.write import write_student
from fewstep.methods import METHODS
from fewstep.models.adapters import PRESETS
from fewstep.models.architectures import SD1_UNET, architecture_folder
from fewstep.models.base import ModelFamily, fingerprint
from fewstep.models.loading import bundled_folder, load_model, load_skeleton
from fewstep.models.saving import save_pipeline
from fewstep.models.tokenizer import write_json
from fewstep.student.contract import Contract
from fewstep.student.load import read_artefact
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.scheduler import FewStepScheduler


@dataclass(frozen=True)
class Case:
    """A student of random weights: its method with settings, and its layers.

    `whole` is whether whole models with it inside are written as well, `styled` whether a second
    LoRA is written beside it.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "all"
    whole: bool = True
    styled: bool = False


MULTI, CD, QUADRATIC = reader.MULTI, reader.CD, reader.QUADRATIC
OF_RANDOM_MODELS = {
    MULTI: Case(MULTI),
    CD: Case(CD, whole=False),
    QUADRATIC: Case(MULTI, {"spacing": "quadratic"}, whole=False),
}
CASES: dict[str, dict[str, Case]] = {
    reader.BUNDLED: {
        MULTI: Case(MULTI),
        CD: Case(CD),
        reader.TRANSFORMER_STUDENT: Case(CD, preset="transformer"),
    },
    reader.TWO_LEVELS: OF_RANDOM_MODELS | {MULTI: Case(MULTI, styled=True), CD: Case(CD)},
    reader.FULL: OF_RANDOM_MODELS,
}
"""The students of each base model, by name."""
FINEST_LEVELS: dict[str, list] = {
    "block_out_channels": [320, 640],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
"""The UNet's settings that leave it the two finest levels of Stable Diffusion 1.5's four."""


def random_model(base: str) -> ModelFamily:
    """Return a model of Stable Diffusion 1.5's shape, with all levels or with two."""
    with architecture_folder("sd15") as configs:
        unet = SD1_UNET if base == reader.FULL else SD1_UNET | FINEST_LEVELS
        write_json(configs / "unet" / "config.json", unet)
        family = load_skeleton(configs)
    draw = torch.Generator().manual_seed(0)
    for part in (family.network, *family.vae_and_text_encoder):
        part.to_empty(device="cpu")
        for name, weight in part.named_parameters():
            if weight.dim() == 1:  # a bias, or a norm's weight
                weight.data.normal_(generator=draw).mul_(0.05).add_("norm" in name)
            else:
                weight.data.uniform_(-1, 1, generator=draw).mul_(weight[0].numel() ** -0.5)
    return family


def write_base(base: str, folder: Path) -> str:
    """Write a base model as a folder and as a file, and return what to load it by."""
    if base == reader.BUNDLED:
        shutil.copytree(bundled_folder(), folder / reader.BASE)
        return "bundled"
    family = random_model(base)
    save_pipeline(family.pipeline(family.network, family.scheduler_config), folder / reader.BASE)
    save_file(family.checkpoint_weights(family.network), folder / reader.BASE_FILE)
    return str(folder / reader.BASE)


def student(case: Case, family: ModelFamily, base: str, seed: int = 0) -> Artefact:
    """Return a student whose random LoRA changes the image.

    Its weights are multiples of 1/1024 of few bits, so that no sum of their products is rounded
    and merged weights are the same to the bit, in whatever order they are summed.
    """
    draw, weights = torch.Generator().manual_seed(seed), {}
    ends = tuple(f".{target}" for target in PRESETS[case.preset])

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=draw) * 0.05 * 1024).round() / 1024

    for name, module in family.network.named_modules():
        if f".{name}".endswith(ends):
            out, *rest = module.weight.shape
            weights[f"{name}.lora_A.weight"] = random(2, *rest)
            weights[f"{name}.lora_B.weight"] = random(out, 2, *[1] * (len(rest) - 1))
    contract = Contract.of(
        case.method, METHODS[case.method](**case.settings), 4.0, family.scheduler_config,
        adapter={"preset": case.preset},
        base={"id": base, "fingerprint": fingerprint(family.network)},
        data={"path": "bundled", "resolution": reader.SIDE},
    )  # fmt: skip
    return Artefact("student", contract, weights)


def write_style(base: str, folder: Path) -> None:
    """Write a second LoRA beside a student, and what diffusers makes of both at each weight."""
    second = student(Case(MULTI, preset="transformer"), load_model(base), base, seed=1)
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as exported:
        write_student(Path(source), second)
        export_artefact(source, Path(exported), ExportOptions())
        shutil.copy(Path(exported) / reader.KOHYA_LORA, folder / reader.STYLE_LORA)
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.scheduler = FewStepScheduler.from_artefact(folder)
    for name, file in (("speed", reader.KOHYA_LORA), ("style", reader.STYLE_LORA)):
        pipe.load_lora_weights(folder, weight_name=file, adapter_name=name)
    for weights in reader.WEIGHTS:
        pipe.set_adapters(["speed", "style"], list(weights))
        drawn = [torch.Generator().manual_seed(reader.SEED + i) for i in range(len(reader.PROMPTS))]
        images = pipe(
            reader.PROMPTS, num_inference_steps=reader.STEPS, guidance_scale=1.0,
            height=reader.SIDE, width=reader.SIDE, generator=drawn, output_type="np",
        ).images  # fmt: skip
        np.save(folder / reader.images_of(reader.of_both(weights)), images)


def write_case(case: Case, base: str, folder: Path) -> list[int]:
    """Export a student with its own images beside it; return the timesteps it is trained for."""
    with tempfile.TemporaryDirectory() as source:
        write_student(Path(source), student(case, load_model(base), base))
        options = ExportOptions(fused=case.whole, checkpoint=case.whole)
        export_artefact(source, folder, options)
    images = FewStepPipeline.from_pretrained(folder)(reader.PROMPTS, seed=reader.SEED)
    np.save(folder / "images.npy", np.stack([np.asarray(i.image) for i in images]) / 255)
    if case.styled:
        write_style(base, folder)
    return [int(t) for t in read_artefact(folder)[0].timesteps()]


def write_cases(base: str, folder: Path) -> dict[str, list[int]]:
    """Write a base model and all its students; return by name what timesteps they are for."""
    folder.mkdir()
    name = write_base(base, folder)
    return {case: write_case(kind, name, folder / case) for case, kind in CASES[base].items()}
