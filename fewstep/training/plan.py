"""What a run will need, before anything is downloaded, encoded or trained."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fewstep.config import Config, Precision
from fewstep.errors import UserError
from fewstep.models.base import ModelFamily
from fewstep.models.loading import load_skeleton
from fewstep.models.precision import DTYPES, precision_for
from fewstep.training.setup import Workshop
from fewstep.training.step_cost import StepCost, decode_bytes, one_row, step_cost, total

GIB = 2**30
CONTEXT = 1.0 * GIB
"""What CUDA, the workspaces of its libraries and the gaps of its allocator take beside tensors."""

EFFICIENCY = (0.15, 0.4)
"""Share of its published matrix rate that a card reaches in training a UNet: between these."""


@dataclass(frozen=True)
class Card:
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


CARDS = (
    Card("T4", 14.6, 65, 8.1),
    Card("RTX 3060 12 GB", 11.8, 51, 12.7),
    Card("RTX 3090", 23.7, 71, 35.6),
    Card("RTX 4090", 23.6, 165, 82.6),
    Card("A100 40 GB", 39.4, 312, 19.5),
    Card("H100", 79.1, 989, 66.9),
    Card("H200", 139.8, 989, 66.9),
)
"""Dense rates of the makers' data sheets."""


@dataclass(frozen=True)
class Blueprint(Workshop):
    """A workshop whose model has no weights: from configs alone, on the meta device."""

    device: str = "meta"
    on_cpu: bool = False

    @cached_property
    def family(self) -> ModelFamily:
        model = self.config.model
        return load_skeleton(
            model.base,
            dtype=DTYPES[self.precision],
            revision=model.revision,
            config=model.config,
            allow_pickle=model.allow_pickle,
        )

    @property
    def precision(self) -> Precision:
        if self.on_cpu:
            return precision_for(self.config.model.precision, "cpu")
        return "fp16" if self.config.model.precision == "auto" else self.config.model.precision


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

    def fits(self, card: Card) -> bool:
        return self.peak_bytes + CONTEXT <= card.gib * GIB


def plan_run(config: Config, *, on_cpu: bool = False) -> Plan:
    """Count what a run needs.

    Raises:
        UserError: as training would, of whatever the configs decide.
    """
    shop = Blueprint(config, Path("plan"), on_cpu=on_cpu)
    cost, preview = step_cost(shop), decode_bytes(shop)
    data = config.data
    if on_cpu or data.streaming:  # it stays where steps are computed
        codec = total(w for part in shop.family.vae_and_text_encoder for w in part.parameters())
        cost, preview = replace(cost, codec=codec), preview - codec
    train, shape = config.train, shop.family.latent_shape(shop.resolution)
    views, latents = 2 if data.flip else 1, 2 * 4 * math.prod(shape)  # mean and deviation in fp32
    text = total(one_row(shop).values())
    return Plan(
        precision=shop.precision,
        trained_parameters=sum(w.numel() for w in shop.roles.trained.values()),
        trained_modules=len({name.split(".lora_")[0] for name in shop.roles.trained}),
        cost=cost,
        preview_bytes=preview,
        cache_bytes_per_pair=0 if data.streaming else views * latents + text,
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


def advice(config: Config, plan: Plan, card: Card) -> str:
    """Say whether a run fits a card and, where it does not, the first change that makes it."""
    if plan.fits(card):
        return f"fits a {card.name}"
    for changed, other in smaller(config):
        if plan_run(other).fits(card):
            told = ", ".join(f"{setting} = {value}" for setting, value in changed.items())
            return f"does not fit a {card.name}; it does with {told}"
    return (
        f"does not fit a {card.name}, whatever its batch: lower data.resolution or adapter.rank, "
        "or take a larger card"
    )


def as_json(config: Config, plan: Plan) -> str:
    """Return the plan for programs."""
    cards = {
        card.name: {"fits": plan.fits(card), "hours": [
            round(s * plan.steps / 3600, 2) for s in card.seconds(plan.cost.flops, plan.precision)
        ]}
        for card in CARDS
    }  # fmt: skip
    entries: dict[str, Any] = asdict(plan) | {
        "peak_bytes": plan.peak_bytes,
        "cache_bytes": plan.cache_bytes,
        "cards": cards,
        "verdict": advice(config, plan, CARDS[0]),
    }
    return json.dumps(entries, indent=2)


def print_plan(config: Config, plan: Plan) -> None:
    """Print the plan as two tables and a sentence."""
    console, cost = Console(), plan.cost
    terms = Table("memory on the device", "GiB", title=f"one step, {plan.precision}")
    rows = {
        "network, frozen weights": cost.weights,
        "what is trained, and its average": cost.adapters,
        "optimiser": cost.optimizer,
        "activations": cost.activations,
        "gradients" if config.train.accumulate > 1 else "(gradients, as activations go)": (
            cost.gradients
        ),
        "autoencoder and text encoder": cost.codec,
    }
    for name, size in rows.items():
        terms.add_row(name, f"{size / GIB:.2f}")
    terms.add_section()
    terms.add_row("at the peak, previews included", f"{plan.peak_bytes / GIB:.2f}")
    cards = Table("card", "GiB", "fits", "seconds a step", "hours", title="predicted, not measured")
    for card in CARDS:
        best, worst = card.seconds(cost.flops, plan.precision)
        hours = [seconds * plan.steps / 3600 for seconds in (best, worst)]
        cards.add_row(card.name, f"{card.gib:.0f}", "yes" if plan.fits(card) else "no",
                      f"{best:.2f} – {worst:.2f}", f"{hours[0]:.1f} – {hours[1]:.1f}")  # fmt: skip
    console.print(terms, cards)
    console.print(
        f"{plan.trained_parameters / 1e6:.2f} M parameters are trained, in {plan.trained_modules} "
        f"modules; {cost.flops / 1e12:.2f} TFLOP a step of {plan.images_per_step} images; "
        f"{cache_told(plan)}; the run {advice(config, plan, CARDS[0])}."
    )


def cache_told(plan: Plan) -> str:
    """Say how much of the disk the cache takes."""
    if not plan.cache_bytes_per_pair:
        return "there is no cache, as data.streaming is true"
    told = f"the cache takes {plan.cache_bytes_per_pair / 1e3:.0f} kB a pair"
    if plan.cache_bytes is not None:
        told += f", {plan.cache_bytes / 1e9:.2f} GB in all"
    if plan.cache_bytes_per_caption:
        told += f", and {plan.cache_bytes_per_caption / 1e3:.0f} kB for each caption but the first"
    return told


def this_card() -> Card:
    """Return the GPU that is used, without its rates."""
    return Card(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / GIB, 0, 0)


@contextmanager
def explained_memory(config: Config) -> Iterator[None]:
    """Turn a GPU's lack of memory into what the plan says about it.

    Raises:
        UserError: in place of the allocator's error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        told = advice(config, plan_run(config), this_card())
        raise UserError(
            f"the GPU has no memory left ({' '.join(str(error).split())[:120]}…): by its plan the "
            f"run {told}; nvidia-smi shows what else is there. What was saved is continued from "
            "with these settings too"
        ) from error
