"""A student's networks converted to OpenVINO's files, for images and batches of any size."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.conditioning import MASK
from fewstep.export.write import ask_for_scheduler, checksums
from fewstep.files import write_file
from fewstep.models.base import ModelError, ModelFamily
from fewstep.models.loading import quietly
from fewstep.models.openvino import DECODER, ENCODER, UNET, XML, library, text_encoders, version
from fewstep.models.quantised import NARROW, to_int8
from fewstep.models.saving import save_configs
from fewstep.models.stable_diffusion import StableDiffusion
from fewstep.student.contract import CONTRACT_FILE, OPENVINO_FOLDER, Contract
from fewstep.student.other_programs import scheduler_config


@dataclass(frozen=True)
class Part:
    """What is converted of a network: a function of tensors, with an example of each by name."""

    name: str
    network: nn.Module
    function: Callable[..., tuple[Tensor, ...]]
    examples: dict[str, Tensor]


class Traced(nn.Module):
    """A part as a module, whose inputs are in the order of the examples."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network, self.part = part.network, part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the part's outputs."""
        return self.part.function(**dict(zip(self.part.examples, inputs, strict=True)))


def parts(family: StableDiffusion, unet: nn.Module) -> Iterator[Part]:
    """Yield the networks' parts, with examples of two images that are no squares."""
    shape = family.latent_shape(family.image_divisor, 2 * family.image_divisor)
    latents, t = torch.zeros(2, *shape), torch.ones(2, dtype=torch.long)
    cond = family.encode_prompts(["", "a"])
    mask = {"encoder_attention_mask": cond[MASK]} if MASK in cond else {}
    added = family.more_inputs(latents, cond).get("added_cond_kwargs", {})

    def denoise(sample: Tensor, timestep: Tensor, **more: Tensor) -> tuple[Tensor, ...]:
        given = {name: more.pop(name) for name in added}
        return unet(sample, timestep, added_cond_kwargs=given, return_dict=False, **more)

    def decode(latent_sample: Tensor) -> tuple[Tensor, ...]:
        return (family.vae.decode(latent_sample).sample,)

    def encode(sample: Tensor) -> tuple[Tensor, ...]:
        return (family.vae.encode(sample).latent_dist.parameters,)

    inputs = {"sample": latents, "timestep": t, "encoder_hidden_states": cond["text"]}
    yield Part(UNET, unet, denoise, {**inputs, **mask, **added})
    yield Part(DECODER, family.vae, decode, {"latent_sample": latents})
    yield Part(ENCODER, family.vae, encode, {"sample": family.decode(latents)})
    tokens, _ = family.tokens(family.tokenizer, ["", "a"])
    for name in text_encoders(family):
        encoder = getattr(family, name)

        def encode_text(input_ids: Tensor, encoder: nn.Module = encoder) -> tuple[Tensor, ...]:
            return family.encoded(encoder, input_ids)

        yield Part(name, encoder, encode_text, {"input_ids": tokens})


def converted(part: Part) -> Any:
    """Return OpenVINO's model of a part, with the weights of the network.

    Raises:
        ModelError: if it cannot be converted.
    """
    ov = library()
    try:
        with torch.no_grad(), warnings.catch_warnings(), quietly():
            warnings.simplefilter("ignore")  # of values that a trace keeps: those of the config
            examples = tuple(part.examples.values())
            model = ov.convert_model(Traced(part).eval(), example_input=examples)
    except Exception as error:  # its own, torch's, and those of a network's code
        reason = " ".join(str(error).rpartition("Summary:")[2].split())[:200]
        raise ModelError(
            f"OpenVINO {version()} cannot convert the {part.name} of this model ({reason}); "
            "leave --openvino out, and sample with the backend torch"
        ) from error
    for port, name in zip(model.inputs, part.examples, strict=True):
        port.get_tensor().set_names({name})
    return model


def store_in_int8(model: Any) -> None:
    """Keep the weights of linear layers and convolutions in 8 bits, as `model.quantize` does."""
    ops = library().opset13
    for layer in model.get_ordered_ops():
        if layer.get_type_name() not in ("MatMul", "Convolution"):
            continue
        weight = layer.input_value(1).get_node()
        if weight.get_type_name() != "Constant":
            continue
        is_by_output = layer.get_attributes().get("transpose_b", True)  # as both are in torch
        shape = weight.data.shape
        if is_by_output and len(shape) > 1 and min(shape[:2]) >= NARROW:
            codes, scale = to_int8(torch.from_numpy(weight.data.copy()))
            whole = ops.multiply(ops.convert(ops.constant(codes.numpy()), "f32"), scale.numpy())
            layer.input(1).replace_source_output(whole.output(0))


def write_openvino(
    folder: Path, contract: Contract, family: ModelFamily, network: nn.Module, *,
    half: bool, int8: bool,
) -> None:  # fmt: skip
    """Write `fused/openvino/`, an artefact as well, with `network` as the UNet.

    Weights are in fp32, with `half` in fp16; with `int8` those of the layers are in 8 bits.

    Raises:
        ModelError: if a network cannot be converted.
    """
    if not isinstance(family, StableDiffusion):
        kind = type(family).__name__
        raise ModelError(f"--openvino is for Stable Diffusion, XL too, and this is a {kind}")
    folder = folder / OPENVINO_FOLDER
    save_configs(family.pipeline(network, scheduler_config(contract)), folder)
    if contract.grid.spacing != "uniform":
        ask_for_scheduler(folder)
    for part in parts(family, network):
        model = converted(part)
        if int8:
            store_in_int8(model)
        library().save_model(model, folder / part.name / XML, compress_to_fp16=half)
    whole = replace(contract, adapter={"preset": "full"}, files=checksums(folder))
    write_file(folder / CONTRACT_FILE, whole.to_json())
