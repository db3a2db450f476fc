"""What a run will need, before anything is downloaded, encoded or trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fewstep.config import Config
from fewstep.data.count import count_pairs
from fewstep.data.dataset import GENERATED_BATCH
from fewstep.methods.base import needs_latents
from fewstep.models.adapters import usable_ranks
from fewstep.models.counting import num_bytes
from fewstep.models.precision import precision_for
from fewstep.models.prompts import planned_prompt
from fewstep.student.generate import BATCH
from fewstep.training.gpus import CONTEXT, GIB, Gpu
from fewstep.training.networks import Networks, build_networks, load_family
from fewstep.training.settings import check_batch, check_settings
from fewstep.training.step_cost import (
    StepCost,
    base_bytes,
    decode_bytes,
    encode_bytes,
    generate_bytes,
    parts_bytes,
    step_cost,
)

PREVIEWED = 4
"""Captions that a preview shows where no prompts are set."""

STEP = "a training step"
"""The part of a run that a batch or checkpointing make smaller."""


@dataclass(frozen=True)
class Needs:
    """What one process of a run needs of its device: operations, and bytes by the part of the run.

    `peaks` has the most bytes on the device of each part. `main_bytes` is the most of main memory
    that loading, saving and what is offloaded take beside a GPU. `narrow_modules` have fewer inputs
    or outputs than the rank of their LoRA, which is partly wasted there.
    """

    precision: str
    on_cpu: bool
    trained_parameters: int
    trained_modules: int
    narrow_modules: int
    cost: StepCost
    peaks: Mapping[str, int]
    main_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most memory on the device, of any part of the run."""
        return max(self.peaks.values())

    def fits(self, gpu: Gpu) -> bool:
        """Return whether the peak and CUDA's own memory fit a GPU."""
        return self.peak_bytes + CONTEXT <= gpu.gib * GIB


@dataclass(frozen=True)
class Plan(Needs):
    """What a whole run needs: also its time and the size of its cache."""

    cache_bytes_per_pair: int
    cache_bytes_per_caption: int
    num_pairs: int | None
    is_counted: bool
    images_per_step: int
    steps: int

    @property
    def cache_bytes(self) -> int | None:
        """The size on the disk with one caption an image, where the number of pairs is known."""
        return None if self.num_pairs is None else self.num_pairs * self.cache_bytes_per_pair

    def step_seconds(self, gpu: Gpu) -> tuple[float, float] | None:
        """Return the time of a step, at best and at worst, if the GPU's rate is known."""
        return gpu.seconds(self.cost.flops, self.cost.kernels, self.precision)

    def run_seconds(self, gpu: Gpu) -> tuple[float, float] | None:
        """Return the time of all steps and of a fake score's warm-up, without encoding."""
        if (step := self.step_seconds(gpu)) is None:
            return None
        steps = self.steps + self.cost.warmup_flops / self.cost.flops
        return step[0] * steps, step[1] * steps


def plan_run(config: Config, *, on_cpu: bool = False) -> Plan:
    """Count what a run needs; "auto" is the precision of a T4, unless it runs on the CPU.

    Raises:
        UserError: as training would, for whatever configs and data decide.
    """
    networks = skeleton(config, on_cpu)
    data, train, family = config.data, config.train, networks.family
    num_pairs, processes = known_pairs(config), train.processes or 1
    latents = 2 * 4 * math.prod(family.latent_shape(networks.resolution))  # mean and std in fp32
    latents *= needs_latents(networks.method)
    text = num_bytes(family.encode_prompts([planned_prompt(family)]).values())
    return Plan(
        **vars(needs_of(networks, on_cpu)),
        cache_bytes_per_pair=0 if data.streaming else (2 if data.flip else 1) * latents + text,
        cache_bytes_per_caption=text if data.captions == "all" and not data.streaming else 0,
        num_pairs=data.num_pairs if num_pairs is None else num_pairs,
        is_counted=num_pairs is not None,
        images_per_step=train.batch_size * train.accumulate * processes,
        steps=train.steps,
    )


def known_pairs(config: Config, processes: int = 1) -> int | None:
    """Return how many pairs are trained on, or None where that is not known before they are read.

    Raises:
        UserError: if a step of so many processes, or of `train.processes`, takes more.
    """
    data, train = config.data, config.train
    if (num_pairs := count_pairs(data)) is not None:
        check_batch(train, data.path, num_pairs, train.processes or processes)
    return num_pairs


def skeleton(config: Config, on_cpu: bool) -> Networks:
    """Build a run's networks from configs alone, without weights."""
    check_settings(config)
    precision = config.model.precision
    if precision == "auto" and not on_cpu:
        precision = "fp16"
    precision = precision_for(precision, "cpu" if on_cpu else "cuda")
    model = replace(config.model, precision=precision)
    train = replace(config.train, compile=False)  # which changes the time alone
    family = load_family(model, "meta")
    return build_networks(replace(config, model=model, train=train), family)


def needs_of(networks: Networks, on_cpu: bool) -> Needs:
    """Count what networks without weights would need on their device."""
    config, trained, parts = networks.config, networks.roles.trained, parts_bytes(networks)
    cost = step_cost(networks)
    if on_cpu or config.data.streaming:  # nothing is offloaded
        cost = replace(cost, vae_and_text_encoder=parts)
    encoding, count = encoding_bytes(networks), shown_images(config)
    before = cost.standing if config.data.streaming else cost.weights + cost.adapters + parts
    peaks = {STEP: cost.bytes, "encoding the data": before + encoding}
    if count:
        drawing = max(generate_bytes(networks, count), decode_bytes(networks, count))
        peaks["a preview"] = cost.standing - cost.vae_and_text_encoder + parts + drawing
    saving = cost.optimizer  # once more, as the bytes of a file
    if on_cpu:
        peaks["saving a checkpoint"] = cost.standing + saving
        peaks["loading the model"] = loading_bytes(networks)
    return Needs(
        precision=config.model.precision,
        on_cpu=on_cpu,
        trained_parameters=sum(weight.numel() for weight in trained.values()),
        trained_modules=len({name.split(".lora_")[0] for name in trained}),
        narrow_modules=narrow_modules(networks),
        cost=cost,
        peaks=peaks,
        main_bytes=max(loading_bytes(networks), parts + cost.adapters + cost.optimizer + saving),
    )


def narrow_modules(networks: Networks) -> int:
    """Return how many modules are narrower than the rank of the LoRA on them."""
    family, adapter = networks.family, networks.config.adapter
    if adapter is None:
        return 0
    ranks = usable_ranks(family.network, family.lora_presets[adapter.preset])
    return sum(adapter.rank > rank for rank in ranks)


def shown_images(config: Config) -> int:
    """Return how many images a preview, or a check of the student's images, makes at a time."""
    previewed = config.train.preview_every and (len(config.train.preview_prompts) or PREVIEWED)
    checked = config.stop.num_prompts * config.stop.num_images if config.stop else 0
    return min(max(previewed, checked), BATCH)


def preparing_peaks(networks: Networks) -> dict[str, int]:
    """Return the bytes of the parts of `fewstep prepare`, which trains nothing."""
    weights = base_bytes(networks) + parts_bytes(networks)
    return {
        "loading the model": loading_bytes(networks),
        "encoding the data": weights + encoding_bytes(networks),
    }


def encoding_bytes(networks: Networks) -> int:
    """Return what encoding the data takes besides weights; prompts alone have the teacher's."""
    data = networks.config.data
    if data.path.endswith(".txt") and needs_latents(networks.method):
        return generate_bytes(networks, min(GENERATED_BATCH, data.num_pairs or GENERATED_BATCH))
    return encode_bytes(networks, images=needs_latents(networks.method))


def loading_bytes(networks: Networks) -> int:
    """Return what loading takes of main memory: every weight is read in fp32."""
    model, parts = networks.config.model, parts_bytes(networks)
    if model.quantize != "none":
        whole = load_family(replace(model, quantize="none", precision="fp32"), "meta").network
        return parts + num_bytes(whole.parameters())
    return parts + base_bytes(networks) // networks.family.dtype.itemsize * torch.float32.itemsize
