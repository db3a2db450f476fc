"""Pictures from prompts, by a student at the timesteps of its contract or by its teacher."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.diffusion.grid import trailing
from fewstep.diffusion.guidance import guided
from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.models.adapters import merge_lora
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_model
from fewstep.sampling.contract import CONTRACT_FILE, FULL_FILE, LORA_FILE, Contract
from fewstep.sampling.sampler import SAMPLERS
from fewstep.types import Denoiser, Landing, Latents

TEACHER_STEPS, TEACHER_GUIDANCE = 50, 4.0
"""How a teacher is sampled where nothing else is said."""


class ArtefactError(UserError):
    """An artefact that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Painter:
    """A denoiser with its timesteps and its sampler: everything that makes a picture of a prompt.

    A picture is a function of (prompt, seed, number) and not of the batch that it is made in;
    painters of one family start the same (seed, number) from the same noise.
    """

    family: ModelFamily
    denoiser: Denoiser[Landing]
    timesteps: Sequence[int]
    sampler: str
    calls: int

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        seed: int,
        resolution: int,
        numbers: Sequence[int] | None = None,
        batch_size: int = 64,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Latents:
        """Return the clean latents of one picture a prompt."""
        numbers = range(len(prompts)) if numbers is None else numbers
        shape = self.family.latent_shape(resolution)
        device = self.family.schedule.alphas.device
        batches = []
        for first in range(0, len(prompts), batch_size):
            chosen = slice(first, first + batch_size)
            cond = self.family.encode_prompts(prompts[chosen])
            draw = Draw.keyed(seed, numbers[chosen], device, purpose="paint")
            noise = draw.noise_like(torch.empty(len(draw.generators), *shape))
            batches.append(
                SAMPLERS[self.sampler](
                    self.denoiser, noise, self.timesteps, cond, self.family.schedule, draw
                )
            )
            advance(len(noise))
        latents = torch.cat(batches)
        if not latents.isfinite().all():
            raise UserError(
                "the model gave latents that are not finite; use precision fp32 or bf16, and "
                "check the weights that were trained"
            )
        return latents

    def decode(self, latents: Latents, batch_size: int = 64) -> Tensor:
        """Return pictures as uint8 [batch, H, W, 3]."""
        parts = (self.family.decode(part) for part in latents.split(batch_size))
        whole = torch.cat([(part * 255).round().to(torch.uint8).cpu() for part in parts])
        return whole.permute(0, 2, 3, 1)

    def paint(self, prompts: Sequence[str], seed: int, resolution: int) -> list[Image.Image]:
        """Return one picture a prompt."""
        pictures = self.decode(self.latents(prompts, seed, resolution))
        return [Image.fromarray(picture.numpy()) for picture in pictures]


def teacher_calls(num_steps: int, guidance_scale: float) -> int:
    """Return how often a picture of the teacher asks the network: with guidance twice a step."""
    return num_steps if guidance_scale == 1 else 2 * num_steps


def teacher_painter(
    family: ModelFamily,
    num_steps: int,
    guidance_scale: float,
    denoiser: Denoiser[Prediction] | None = None,
) -> Painter:
    """Return the undistilled model under plain guided DDIM with trailing timesteps.

    With guidance each step asks the network twice. `denoiser` stands in for the family's network.
    """
    denoiser = denoiser or family.denoiser(family.network)
    uncond = family.encode_prompts([""])
    starts = trailing(num_steps, family.schedule.num_train_timesteps)
    return Painter(
        family=family,
        denoiser=guided(denoiser, uncond, guidance_scale),
        timesteps=starts,
        sampler="deterministic",
        calls=teacher_calls(num_steps, guidance_scale),
    )


def student_network(
    family: ModelFamily, contract: Contract, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of the family's network with a student's folded LoRA, or with its weights."""
    network = deepcopy(family.network)
    if contract.adapter.get("preset") == "full":
        network.load_state_dict(weights)
        return network
    return merge_lora(network, weights)


def student_painter(
    family: ModelFamily,
    contract: Contract,
    network: nn.Module,
    num_steps: int | None = None,
) -> Painter:
    """Return the student's network at the timesteps of its contract."""
    timesteps = contract.timesteps(num_steps)
    return Painter(
        family=family,
        denoiser=family.denoiser(network),
        timesteps=timesteps,
        sampler=contract.grid.sampler,
        calls=len(timesteps),
    )


@dataclass(frozen=True)
class FewStepPipeline:
    """A distilled model, ready to paint: `FewStepPipeline.from_pretrained(path)("a prompt")`."""

    family: ModelFamily
    contract: Contract
    weights: Mapping[str, Tensor]

    @classmethod
    def from_pretrained(
        cls,
        artefact: str | Path,
        *,
        base: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load an artefact folder and the base model that it names, or `base` in its place.

        Raises:
            ArtefactError: if a file is missing, or the base is not the one that was distilled.
        """
        contract, weights = read_artefact(Path(artefact))
        family = load_base(contract, artefact, base, device=device, dtype=dtype)
        return cls(family, contract, weights)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        num_steps: int | None = None,
        resolution: int | None = None,
    ) -> list[Image.Image]:
        """Return one picture a prompt; the timesteps are those of the contract.

        Raises:
            ValueError: if the student does not know `num_steps`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return self.painter(num_steps).paint(prompts, seed, resolution or self.resolution)

    @property
    def resolution(self) -> int:
        """The side in pixels of the pictures that the student was trained on."""
        return self.contract.data["resolution"]

    @cached_property
    def network(self) -> nn.Module:
        """The student's network, made once for all numbers of steps."""
        return student_network(self.family, self.contract, self.weights)

    def painter(self, num_steps: int | None = None) -> Painter:
        self.contract.timesteps(num_steps)  # before the work
        return student_painter(self.family, self.contract, self.network, num_steps)


def load_base(
    contract: Contract,
    artefact: str | Path,
    base: str | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelFamily:
    """Load the model that an artefact was distilled from, or `base` in its place.

    Raises:
        ArtefactError: if its weights are not those that were distilled.
    """
    named = contract.base
    which = {"revision": named.get("revision"), "variant": named.get("variant")}
    family = load_model(base or named["id"], dtype=dtype, device=device, **({} if base else which))
    if family.fingerprint != named["fingerprint"]:
        raise ArtefactError(
            f"{artefact} was distilled from other weights than those of {base or named['id']}; "
            f"pass base= with the model that it was made from ({named['id']})"
        )
    return family


def read_artefact(folder: Path) -> tuple[Contract, dict[str, Tensor]]:
    """Read the contract and the folded LoRA of an artefact, or of a run that holds one.

    Raises:
        ArtefactError: if one of the two is missing or damaged.
    """
    folder = folder / "artefact" if (folder / "artefact").is_dir() else folder
    try:
        contract = Contract.from_json(
            (folder / CONTRACT_FILE).read_text(encoding="utf-8"), folder / CONTRACT_FILE
        )
        is_full = contract.adapter.get("preset") == "full"
        tensors = load_file(folder / (FULL_FILE if is_full else LORA_FILE))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{folder} is no artefact: {Path(error.filename or str(error)).name} is missing; give "
            "a finished run or an artefact folder"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(f"cannot read the artefact {folder}: {error}") from error
    return contract, {name.removeprefix("unet."): value for name, value in tensors.items()}
