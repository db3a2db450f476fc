"""The model, its roles and the method that trains them, from settings."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fewstep.config import AdapterSettings, Config, ModelSettings, SettingError, TeacherSettings
from fewstep.diffusion.guidance import guided
from fewstep.diffusion.losses import check_weighting
from fewstep.methods import Denoisers, Method
from fewstep.methods.base import Measured
from fewstep.models.adapters import Roles, full_roles, lora_roles
from fewstep.models.base import ModelFamily
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import load_model, load_skeleton
from fewstep.models.precision import DTYPES, MIXED, autocast_device, stored_dtype
from fewstep.training.settings import build_method, fake_settings, teacher_guidance
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps


@dataclass(frozen=True)
class Networks:
    """The model and its roles, and the method that trains them; `config` has no default left."""

    config: Config
    method: Method
    family: ModelFamily
    roles: Roles

    @property
    def resolution(self) -> int:
        """The side of the images, in pixels."""
        return self.config.data.resolution or self.family.default_resolution

    @property
    def guidance_scale(self) -> float:
        """The teacher's; 1 is none."""
        return self.config.teacher.guidance_scale or 1.0

    def denoisers(self, uncond: Conditioning) -> Denoisers:
        """Return the roles of a training step; `uncond` is the empty prompt's, one row."""
        roles, device = self.roles, self.family.schedule.alphas.device
        uncond = {name: row.to(device) for name, row in uncond.items()}
        nets = Denoisers(
            fake=roles.fake,
            student=roles.student,
            target=roles.ema if self.config.train.target == "ema" else roles.student,
            teacher=guided(roles.teacher, uncond, self.guidance_scale),
        )
        if self.config.model.precision != MIXED:
            return nets
        return Denoisers(
            **{name: in_bf16_without_gradient(net) for name, net in vars(nets).items()}
        )

    def network_for_training(self) -> torch.nn.Module:
        """Return the student's network in training mode, checkpointed and compiled as set."""
        network, train = self.roles.network, self.config.train
        set_checkpointing(network, train.checkpointing)
        if train.compile:
            network.compile()
        return network.train()


def in_bf16_without_gradient(denoiser: Denoiser[Any]) -> Denoiser[Any]:
    """Return the denoiser, which computes in bf16 wherever no gradient is wanted of it."""

    def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Any:
        device = autocast_device(x_t.device)
        with torch.autocast(device, torch.bfloat16, not torch.is_grad_enabled()):
            return denoiser(x_t, t, cond)

    return denoise


def build_networks(config: Config, family: ModelFamily, num_processes: int = 1) -> Networks:
    """Give the family its roles, and the config every default of method and model.

    A family on the meta device has no weights: this is what a plan counts.

    Raises:
        UserError: if the method and the model do not go together, or an adapter matches nothing.
    """
    name, method = build_method(config.method)
    resolution = config.data.resolution or family.default_resolution
    family.latent_shape(resolution)
    try:
        if isinstance(method, Measured):
            check_weighting(method.weighting, family.schedule)
    except ValueError as error:
        raise SettingError(str(error)) from error
    resolved = replace(
        config,
        method={"name": name} | asdict(method),  # type: ignore[call-overload]
        teacher=TeacherSettings(teacher_guidance(config)),
        fake=fake_settings(config),
        data=replace(config.data, resolution=resolution),
        train=replace(config.train, processes=num_processes),
    )
    return Networks(resolved, method, family, build_roles(family, resolved))


def build_roles(family: ModelFamily, config: Config) -> Roles:
    """Give the network its LoRAs, or copies to fine-tune whole."""
    adapter, seed = config.adapter, config.train.seed
    if adapter is None:
        return full_roles(family, averages=config.train.ema > 0)
    preset, rank, alpha = adapter.preset, adapter.rank, lora_alpha(adapter)
    return lora_roles(
        family,
        preset,
        rank,
        alpha,
        dropout=adapter.dropout,
        seed=seed,
        fake_rank=config.fake and config.fake.rank,
        average=DTYPES[config.train.ema_precision] if config.train.ema else None,
    )


def lora_alpha(adapter: AdapterSettings) -> float:
    """Return alpha; where none is set it is the rank, so that the update's scale is 1."""
    return float(adapter.rank) if adapter.alpha is None else adapter.alpha


def load_family(model: ModelSettings, device: torch.device | str) -> ModelFamily:
    """Load the base model; on the "meta" device from its configs alone, without weights."""
    options = {
        "dtype": stored_dtype(model.precision),
        "quantize": model.quantize,
        "revision": model.revision,
        "config": model.config,
        "allow_pickle": model.allow_pickle,
        "long_prompts": model.long_prompts,
    }
    if str(device) == "meta":
        return load_skeleton(model.base, **options)
    return load_model(model.base, device=device, variant=model.variant, **options)
