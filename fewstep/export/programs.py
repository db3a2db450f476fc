"""`fewstep export --check`: whether installed programs read what was written as fewstep does."""

# optional programs; diffusers and PEFT hand out their classes without types
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportArgumentType=false

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fewstep.errors import UserError
from fewstep.export.artefact import FUSED_FOLDER, PEFT_FILE, is_whole_network, name_of
from fewstep.models.base import ModelFamily
from fewstep.models.loading import quietly
from fewstep.student.contract import LORA_FILE, Contract
from fewstep.student.generate import student_sampler
from fewstep.student.load import read_artefact
from fewstep.student.networks import student_network
from fewstep.student.other_programs import scheduler_config
from fewstep.student.scheduler import FewStepScheduler
from fewstep.student.seeds import image_generators

PROMPT = "a lighthouse at dusk"
LARGEST_SHARE = 0.03
"""The largest error of a LoRA's layer that is read right, in parts of its change."""
LARGEST_PIXEL = 16
"""The largest difference of an image, of 255, up to which it is the same: files may be fp16."""


@dataclass(frozen=True)
class Written:
    """An artefact's folder, and its student as fewstep reads it."""

    folder: Path
    contract: Contract
    family: ModelFamily
    network: nn.Module

    @cached_property
    def side(self) -> int:
        """The side in pixels of the images that are compared: small, so that it is quick."""
        return min(self.family.default_resolution, 2 * self.family.image_divisor)

    def share_lost(self, network: nn.Module) -> float:
        """Return how much of its change a UNet's worst weight lacks, or has too much; 1: all."""
        own, base = self.network.state_dict(), self.family.network.state_dict()
        shares = [0.0]
        for name, found in network.state_dict().items():
            error, change = (found - own[name]).norm(), (own[name] - base[name]).norm()
            shares.append((error / change).item() if error else 0.0)
        return max(shares)

    def pixels_off(self, pipeline: Any) -> float:
        """Return the largest difference, of 255, of a pipeline's image to the student's."""
        sampler = student_sampler(self.family, self.contract, self.network)
        own = np.asarray(sampler.generate([PROMPT], 0, self.side)[0]) / 255
        generator = image_generators(0, 1)[0]
        noise = torch.randn(1, *self.family.latent_shape(self.side), generator=generator)
        pipeline.set_progress_bar_config(disable=True)
        (image,) = pipeline(
            [PROMPT], num_inference_steps=self.contract.default_num_steps, guidance_scale=1.0,
            height=self.side, width=self.side, latents=noise, generator=generator,
            output_type="np",
        ).images  # fmt: skip
        return 255 * float(np.abs(np.asarray(image) - own).max())


@dataclass(frozen=True)
class Reading:
    """What a program made of a file: how much it is off, in words, and whether that is right."""

    file: str
    off: str
    is_right: bool


def of_lora(written: Written, file: str, network: nn.Module) -> Reading:
    """Say how a LoRA was read, from the UNet that it was merged into."""
    lost = written.share_lost(network)
    return Reading(file, f"its worst layer is {lost:.1%} off", lost <= LARGEST_SHARE)


def of_model(written: Written, file: str, pipeline: Any) -> Reading:
    """Say how a whole model was read, from an image of its pipeline."""
    off = written.pixels_off(pipeline)
    return Reading(file, f"its image is {off:.0f} of 255 off", off <= LARGEST_PIXEL)


def in_diffusers(written: Written) -> Iterator[Reading]:
    """Load the two LoRA files that diffusers knows, and the whole model if it was written."""
    from diffusers import DiffusionPipeline

    if not is_whole_network(written.contract):
        for file in (LORA_FILE, f"{name_of(written.contract.files)}.safetensors"):
            scheduler = scheduler_config(written.contract)
            pipeline = written.family.pipeline(deepcopy(written.family.network), scheduler)
            pipeline.load_lora_weights(str(written.folder), weight_name=file)
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
            yield of_lora(written, file, pipeline.unet)
    if (folder := written.folder / FUSED_FOLDER).is_dir():
        given: dict[str, Any] = {}
        if written.contract.grid.spacing != "uniform":
            given["scheduler"] = FewStepScheduler.from_contract(written.contract)
        pipeline = DiffusionPipeline.from_pretrained(folder, **given)
        yield of_model(written, FUSED_FOLDER, pipeline)


def in_peft(written: Written) -> Iterator[Reading]:
    """Load the LoRA in PEFT's own way."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(deepcopy(written.family.network), str(written.folder))
    yield of_lora(written, PEFT_FILE, model.merge_and_unload())


def in_onnx_runtime(written: Written) -> Iterator[Reading]:
    """Export the whole model to ONNX, and sample it there."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipeline = ORTStableDiffusionPipeline.from_pretrained(
        str(written.folder / FUSED_FOLDER), export=True
    )
    yield of_model(written, FUSED_FOLDER, pipeline)


def in_openvino(written: Written) -> Iterator[Reading]:
    """Export the whole model to OpenVINO, and sample it there in fp32."""
    from optimum.intel import OVStableDiffusionPipeline

    pipeline = OVStableDiffusionPipeline.from_pretrained(
        str(written.folder / FUSED_FOLDER), export=True,
        ov_config={"INFERENCE_PRECISION_HINT": "f32"},
    )  # fmt: skip
    yield of_model(written, FUSED_FOLDER, pipeline)


@dataclass(frozen=True)
class Program:
    """A program that can be asked: its package, and whether it reads nothing but whole models."""

    package: str
    read: Callable[[Written], Iterator[Reading]]
    only_whole: bool = False


PROGRAMS: Mapping[str, Program] = {
    "diffusers": Program("diffusers", in_diffusers),
    "peft": Program("peft", in_peft),
    "onnx": Program("optimum-onnx", in_onnx_runtime, only_whole=True),
    "openvino": Program("optimum-intel", in_openvino, only_whole=True),
}
"""By the name that --check takes."""


def check_names(names: Sequence[str], contract: Contract, fused: bool) -> None:
    """Refuse programs that are unknown, not installed, or cannot read what will be written.

    Raises:
        UserError: naming the program, and what to do.
    """
    for name in names:
        if name not in PROGRAMS:
            raise UserError(f"--check is {name!r}; known: {', '.join(PROGRAMS)}")
        program = PROGRAMS[name]
        try:
            importlib.metadata.version(program.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                f"--check is {name!r}, which is not installed: pip install {program.package}"
            ) from error
        if (program.only_whole or is_whole_network(contract)) and not fused:
            raise UserError(f"--check is {name!r}, which reads whole models: add --fused")
        if program.only_whole and contract.grid.spacing != "uniform":
            raise UserError(f"--check is {name!r}, which takes no timesteps: leave it out")
        if name == "peft" and is_whole_network(contract):
            raise UserError("--check is 'peft', which reads LoRAs alone: leave it out")


def check_programs(folder: Path, names: Sequence[str], family: ModelFamily) -> list[str]:
    """Load an artefact's files in each program, and return a line a file on how it reads it.

    `family` is its base model.

    Raises:
        UserError: if one reads something else than fewstep does.
    """
    contract, weights = read_artefact(folder)
    written = Written(folder, contract, family, student_network(family, contract, weights))
    lines, wrong = [], []
    for name in names:
        version = importlib.metadata.version(PROGRAMS[name].package)
        with quietly():
            for reading in PROGRAMS[name].read(written):
                verdict = "right" if reading.is_right else "WRONG"
                lines.append(f"{name} {version} reads {reading.file} {verdict}: {reading.off}")
                wrong += [] if reading.is_right else [lines[-1]]
    if wrong:
        raise UserError(f"{folder} was written, but {'; '.join(wrong)}")
    return lines
