"""What a file says of itself in its header, for programs that show or sort by it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fewstep.export.lora_formats import rank
from fewstep.export.recipes import usage_hint
from fewstep.student.contract import Contract


class Base(NamedTuple):
    """What a family of base models is called; by modelspec with epsilon- and with v-prediction."""

    kohya: str
    a1111: str
    modelspec: tuple[str, str]


KNOWN_BASES = {
    768: Base("sd_v1", "SD1", ("stable-diffusion-v1", "stable-diffusion-v1")),
    1024: Base("sd_v2", "SD2", ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v")),
}
"""By the width of the text encoder."""


@dataclass(frozen=True)
class Header:
    """Metadata as strings, without paths and prompts; `weights` are a LoRA or a whole UNet."""

    name: str
    contract: Contract
    weights: Mapping[str, Tensor]
    license: str | None = None

    def kohya(self) -> dict[str, str]:
        """Return that of a LoRA in kohya's format."""
        size, train = str(rank(self.weights)), self.contract.train
        told = {
            "ss_output_name": self.name,  # A1111 calls the LoRA so in prompts
            "ss_network_module": "networks.lora",
            "ss_network_dim": size,
            "ss_network_alpha": size,
            "ss_seed": str(train.get("seed", "")),
            "ss_steps": str(train.get("steps", "")),
        }
        if precision := train.get("precision"):
            told["ss_mixed_precision"] = "no" if precision == "fp32" else precision
        if any(weight.dim() == 4 and weight.shape[-1] > 1 for weight in self.weights.values()):
            told["ss_network_args"] = json.dumps({"conv_dim": size, "conv_alpha": size})
        if base := self._base:
            told["ss_base_model_version"] = base.kohya + ("_v" if self._predicts_v else "")
            told["ss_v2"] = str(base is KNOWN_BASES[1024])
        return told | self.modelspec("/lora") | {"modelspec.implementation": "diffusers"}

    def modelspec(self, kind: str = "") -> dict[str, str]:
        """Return that of any model; `kind` follows the architecture.

        Source: Stability AI, ModelSpec 1.0.1.
        """
        predicts = self.contract.schedule.prediction_type
        told = {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.title": self.name,
            "modelspec.prediction_type": "v" if self._predicts_v else predicts,
            "modelspec.usage_hint": usage_hint(self.contract),
        }
        if self._base:
            told["modelspec.architecture"] = self._base.modelspec[self._predicts_v] + kind
        if self.license:
            told["modelspec.license"] = self.license
        return told

    def sidecar(self) -> str:
        """Return what A1111 shows of a LoRA and fills in, the contents of NAME.json."""
        told: dict[str, object] = {"notes": usage_hint(self.contract), "preferred weight": 1.0}
        if self._base:
            told["sd version"] = self._base.a1111
        return json.dumps(told, indent=2) + "\n"

    @property
    def _predicts_v(self) -> bool:
        return self.contract.schedule.prediction_type == "v_prediction"

    @property
    def _base(self) -> Base | None:
        """What the base model is called, by the width of the prompts that its attention reads."""
        ends = (".attn2.to_k.lora_A.weight", ".attn2.to_k.weight")
        widths = (weight.shape[1] for name, weight in self.weights.items() if name.endswith(ends))
        return KNOWN_BASES.get(next(widths, 0))
