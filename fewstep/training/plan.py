"""What a run will need, before anything is downloaded, encoded or trained."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from fewstep.config import Config
from fewstep.errors import UserError
from fewstep.methods.base import needs_latents
from fewstep.models.precision import precision_for
from fewstep.models.prompts import planned_prompt
from fewstep.training.networks import build_networks, load_family
from fewstep.training.settings import check_settings
from fewstep.training.step_cost import StepCost, decode_bytes, num_bytes, step_cost

GIB = 2**30
CONTEXT = 1.0 * GIB
"""What CUDA, the workspaces of its libraries and its allocator's gaps take besides tensors."""

EFFICIENCY = (0.15, 0.4)
"""The fraction of its published matrix rate that a GPU reaches in training a UNet: a range."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory that a process can have, and TFLOP/s in half precision and in fp32."""

    name: str
    gib: float
    half: float
    full: float

    def seconds(self, flops: int, precision: str) -> tuple[float, float]:
        """Return the time of so many operations, at best and at worst."""
        rate = (self.full if precision == "fp32" else self.half) * 1e12
        worst, best = EFFICIENCY
        return flops / rate / best, flops / rate / worst


GPUS = (
    Gpu("T4", 14.6, 65, 8.1),
    Gpu("RTX 3060 12 GB", 11.8, 51, 12.7),
    Gpu("RTX 3090", 23.7, 71, 35.6),
    Gpu("RTX 4090", 23.6, 165, 82.6),
    Gpu("A100 40 GB", 39.4, 312, 19.5),
    Gpu("H100", 79.1, 989, 66.9),
    Gpu("H200", 139.8, 989, 66.9),
)
"""Dense rates of the makers' data sheets."""


@dataclass(frozen=True)
class Plan:
    """What a run needs: parameters, bytes and operations."""

    precision: str
    trained_parameters: int
    trained_modules: int
    cost: StepCost
    preview_bytes: int
    cache_bytes_per_pair: int
    cache_bytes_per_caption: int
    num_pairs: int | None
    images_per_step: int
    steps: int

    @property
    def peak_bytes(self) -> int:
        """The most memory on the device: of a training step, or of drawing a preview."""
        return max(self.cost.bytes, self.cost.standing + self.preview_bytes)

    @property
    def cache_bytes(self) -> int | None:
        """The size on the disk with one caption an image, where the number of pairs is set."""
        return None if self.num_pairs is None else self.num_pairs * self.cache_bytes_per_pair

    def fits(self, gpu: Gpu) -> bool:
        """Return whether the peak and CUDA's own memory fit a GPU."""
        return self.peak_bytes + CONTEXT <= gpu.gib * GIB

    def hours(self, gpu: Gpu) -> tuple[float, float]:
        """Return the hours of the whole run, at best and at worst."""
        best, worst = gpu.seconds(self.cost.flops, self.precision)
        return best * self.steps / 3600, worst * self.steps / 3600


def plan_run(config: Config, *, on_cpu: bool = False) -> Plan:
    """Count what a run needs; "auto" is the precision of a T4, unless it runs on the CPU.

    Raises:
        UserError: as training would, for whatever the configs decide.
    """
    check_settings(config)
    model, data, train = config.model, config.data, config.train
    precision = model.precision
    if on_cpu or precision == "auto":
        precision = precision_for(precision, "cpu") if on_cpu else "fp16"
    model = replace(model, precision=precision)
    networks = build_networks(replace(config, model=model), load_family(model, "meta"))
    family, trained = networks.family, networks.roles.trained
    cost, preview_bytes = step_cost(networks), decode_bytes(networks)
    if on_cpu or data.streaming:  # nothing is offloaded
        parts = num_bytes(w for part in family.vae_and_text_encoder for w in part.parameters())
        cost, preview_bytes = replace(cost, vae_and_text_encoder=parts), preview_bytes - parts
    latents = 2 * 4 * math.prod(family.latent_shape(networks.resolution))  # mean and std in fp32
    latents *= needs_latents(networks.method)
    text = num_bytes(family.encode_prompts([planned_prompt(family)]).values())
    return Plan(
        precision=precision,
        trained_parameters=sum(weight.numel() for weight in trained.values()),
        trained_modules=len({name.split(".lora_")[0] for name in trained}),
        cost=cost,
        preview_bytes=preview_bytes,
        cache_bytes_per_pair=0 if data.streaming else (2 if data.flip else 1) * latents + text,
        cache_bytes_per_caption=text if data.captions == "all" and not data.streaming else 0,
        num_pairs=data.num_pairs,
        images_per_step=train.batch_size * train.accumulate,
        steps=train.steps,
    )


def smaller(config: Config) -> Iterator[tuple[dict[str, object], Config]]:
    """Yield what to change for less memory, the cheapest change first."""
    train, changed = config.train, {}
    kinds = ("none", "selective", "full")
    for kind in kinds[kinds.index(train.checkpointing) + 1 :]:
        changed["train.checkpointing"] = kind
        train = replace(train, checkpointing=kind)
        yield changed, replace(config, train=train)
    while train.batch_size > 1:
        train = replace(train, batch_size=train.batch_size // 2, accumulate=train.accumulate * 2)
        changed |= {"train.batch_size": train.batch_size, "train.accumulate": train.accumulate}
        yield changed, replace(config, train=train)


def advice(config: Config, plan: Plan, gpu: Gpu) -> str:
    """Return whether a run fits a GPU and, where it does not, the first change that makes it."""
    if plan.fits(gpu):
        return f"fits a {gpu.name}"
    for changed, other in smaller(config):
        if plan_run(other).fits(gpu):
            settings = ", ".join(f"{setting} = {value}" for setting, value in changed.items())
            return f"does not fit a {gpu.name}; it does with {settings}"
    return (
        f"does not fit a {gpu.name}, whatever its batch: lower data.resolution or adapter.rank, "
        "or use a larger GPU"
    )


def as_json(config: Config, plan: Plan) -> str:
    """Return the plan for programs."""
    cards = {
        gpu.name: {"fits": plan.fits(gpu), "hours": [round(h, 2) for h in plan.hours(gpu)]}
        for gpu in GPUS
    }
    entries = {
        **asdict(plan),
        "peak_bytes": plan.peak_bytes,
        "cache_bytes": plan.cache_bytes,
        "cards": cards,
        "verdict": advice(config, plan, GPUS[0]),
    }
    return json.dumps(entries, indent=2)


def print_plan(config: Config, plan: Plan) -> None:
    """Print the plan as two tables and a sentence."""
    console, cost = Console(), plan.cost
    accumulates = config.train.accumulate > 1
    rows = {
        "network, frozen weights": cost.weights,
        "trained weights and their average": cost.adapters,
        "optimiser": cost.optimizer,
        "activations": cost.activations,
        "gradients" if accumulates else "(gradients, as activations go)": cost.gradients,
        "VAE and text encoder": cost.vae_and_text_encoder,
    }
    memory = Table("memory on the device", "GiB", title=f"one step, {plan.precision}")
    for name, size in rows.items():
        memory.add_row(name, f"{size / GIB:.2f}")
    memory.add_section()
    memory.add_row("at the peak, previews included", f"{plan.peak_bytes / GIB:.2f}")
    gpus = Table("GPU", "GiB", "fits", "seconds a step", "hours", title="predicted, not measured")
    for gpu in GPUS:
        seconds = "{:.2f} – {:.2f}".format(*gpu.seconds(cost.flops, plan.precision))
        hours = "{:.1f} – {:.1f}".format(*plan.hours(gpu))
        gpus.add_row(gpu.name, f"{gpu.gib:.0f}", "yes" if plan.fits(gpu) else "no", seconds, hours)
    console.print(memory, gpus)
    console.print(
        f"{plan.trained_parameters / 1e6:.2f} M parameters are trained, in {plan.trained_modules} "
        f"modules; {cost.flops / 1e12:.2f} TFLOP a step of {plan.images_per_step} images; "
        f"{cache_summary(plan)}; the run {advice(config, plan, GPUS[0])}."
    )


def cache_summary(plan: Plan) -> str:
    """Return how much of the disk the cache takes, in words."""
    if not plan.cache_bytes_per_pair:
        return "there is no cache, as data.streaming is true"
    summary = f"the cache takes {plan.cache_bytes_per_pair / 1e3:.0f} kB a pair"
    if plan.cache_bytes is not None:
        summary += f", {plan.cache_bytes / 1e9:.2f} GB in all"
    if plan.cache_bytes_per_caption:
        kb = plan.cache_bytes_per_caption / 1e3
        summary += f", and {kb:.0f} kB for each caption but the first"
    return summary


def this_gpu() -> Gpu:
    """Return the GPU that is used, without its rates."""
    return Gpu(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / GIB, 0, 0)


@contextmanager
def explained_memory(config: Config) -> Iterator[None]:
    """Explain a GPU's lack of memory by the plan.

    Raises:
        UserError: in place of the allocator's error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        hint = advice(config, plan_run(config), this_gpu())
        raise UserError(
            f"the GPU has no memory left ({' '.join(str(error).split())[:120]}…): by its plan the "
            f"run {hint}; nvidia-smi shows what else uses it. What was saved is continued with "
            "these settings too"
        ) from error
