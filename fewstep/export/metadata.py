"""The metadata in the headers of files, for programs that show it or sort by it."""

import json

from fewstep.export.artefact import Artefact
from fewstep.export.lora_formats import rank
from fewstep.export.sampling_guides import a1111_hint, usage_hint
from fewstep.models.precision import MIXED

KNOWN_BASES = {
    (768, False): ("sd_v1", "SD1", "stable-diffusion-v1"),
    (768, True): ("sd_v1_v", "SD1", "stable-diffusion-v1"),
    (1024, False): ("sd_v2", "SD2", "stable-diffusion-v2-512"),
    (1024, True): ("sd_v2_v", "SD2", "stable-diffusion-v2-768-v"),
    (2048, False): ("sdxl_base_v1-0", "SDXL", "stable-diffusion-xl-v1-base"),
    (2048, True): ("sdxl_base_v1-0", "SDXL", "stable-diffusion-xl-v1-base"),
}
"""What kohya, A1111 and modelspec call a base model, by the width of its prompts and whether it
predicts v."""


def kohya_header(artefact: Artefact) -> dict[str, str]:
    """Return the metadata of a LoRA in kohya's format, without paths and prompts."""
    size, train = str(rank(artefact.weights)), artefact.contract.train
    header = {
        "ss_output_name": artefact.name,  # A1111's name for the LoRA in prompts
        "ss_network_module": "networks.lora",
        "ss_network_dim": size,
        "ss_network_alpha": size,
        "ss_seed": str(train.get("seed", "")),
        "ss_steps": str(train.get("steps", "")),
    }
    if precision := train.get("precision"):
        header["ss_mixed_precision"] = "no" if precision in ("fp32", MIXED) else precision
    if any(weight.dim() == 4 and weight.shape[-1] > 1 for weight in artefact.weights.values()):
        header["ss_network_args"] = json.dumps({"conv_dim": size, "conv_alpha": size})
    if base := _known_base(artefact):
        header |= {"ss_base_model_version": base[0], "ss_v2": str(base[1] == "SD2")}
    return header | modelspec(artefact, "/lora") | {"modelspec.implementation": "diffusers"}


def modelspec(artefact: Artefact, kind: str = "") -> dict[str, str]:
    """Return the metadata of any model; `kind` follows the architecture.

    Source: Stability AI, ModelSpec 1.0.1.
    """
    predicts = artefact.contract.prediction_type
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": artefact.name,
        "modelspec.prediction_type": "v" if predicts == "v_prediction" else predicts,
        "modelspec.usage_hint": usage_hint(artefact.contract),
    }
    if base := _known_base(artefact):
        header["modelspec.architecture"] = base[2] + kind
    if artefact.license:
        header["modelspec.license"] = artefact.license
    return header


def sidecar(artefact: Artefact) -> str:
    """Return the contents of NAME.json, which A1111 shows with a LoRA and fills in."""
    entries = {"notes": a1111_hint(artefact.contract), "preferred weight": 1.0}
    if base := _known_base(artefact):
        entries["sd version"] = base[1]
    return json.dumps(entries, indent=2) + "\n"


def _known_base(artefact: Artefact) -> tuple[str, str, str] | None:
    """Look the base model up by the width of the prompts that its attention reads."""
    ends = (".attn2.to_k.lora_A.weight", ".attn2.to_k.weight")
    widths = (weight.shape[1] for name, weight in artefact.weights.items() if name.endswith(ends))
    predicts_v = artefact.contract.prediction_type == "v_prediction"
    return KNOWN_BASES.get((next(widths, 0), predicts_v))
