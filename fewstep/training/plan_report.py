"""A plan as tables and a sentence, or as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from fewstep.config import Config
from fewstep.data.count import is_here
from fewstep.training.changes import changed_by, one_by_one
from fewstep.training.gpus import GIB, GPUS, Gpu, planned_gpu
from fewstep.training.memory import Room, advised, change_that_fits, needs
from fewstep.training.plan import Plan, plan_run

UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("s", 1.0), ("ms", 1e-3))


@dataclass(frozen=True)
class Verdict:
    """Whether a run fits a device, in words, and the peak after each setting that makes it."""

    words: str
    changes: Sequence[tuple[str, int]] = ()


def show_plan(config: Config, *, on_cpu: bool, as_json: bool, gib: float | None = None) -> None:
    """Plan a run for a card of `gib` GiB, and print it as JSON, or as tables and a sentence."""
    plan, console = plan_run(config, on_cpu=on_cpu), Console()
    found = verdict(config, plan, planned_gpu(gib))
    if as_json:
        print(to_json(plan, found))
        return
    console.print(memory_table(plan))
    if not on_cpu:
        console.print(gpu_table(plan))
    if found.changes:
        console.print(changes_table(plan, found))
    console.print(summary(config, plan, found), highlight=False)


def verdict(config: Config, plan: Plan, gpu: Gpu) -> Verdict:
    """Return whether the run fits a card, or on the CPU this machine, and what makes it."""
    room = Room.here("cpu") if plan.on_cpu else Room.of(gpu)
    if room.fits(plan):
        told = Verdict(f"fits {room.name}")
    else:
        changes = change_that_fits(config, room)
        peaks = [(words, needs(changed_by(config, so_far), plan.on_cpu).peak_bytes)
                 for words, so_far in one_by_one(changes or {})]  # fmt: skip
        told = Verdict(advised(room, changes), peaks)
    if plan.on_cpu or gpu.computes(plan.precision):
        return told
    units = f"which has no units for {plan.precision}: set model.precision = fp16 for it"
    return replace(told, words=f"{told.words}, {units}")


def to_json(plan: Plan, found: Verdict) -> str:
    """Return the plan for programs; times are in seconds and hours, None where no rate is known."""
    entries = {
        **asdict(plan),
        "peak_bytes": plan.peak_bytes,
        "cache_bytes": plan.cache_bytes,
        "cards": {} if plan.on_cpu else {gpu.name: _card(plan, gpu) for gpu in GPUS},
        "verdict": found.words,
        "changes": [{"settings": words, "peak_bytes": peak} for words, peak in found.changes],
    }
    return json.dumps(entries, indent=2)


def _card(plan: Plan, gpu: Gpu) -> dict[str, Any]:
    step, run = plan.step_seconds(gpu), plan.run_seconds(gpu)
    return {
        "fits": plan.fits(gpu),
        "seconds_a_step": step and [float(f"{seconds:.3g}") for seconds in step],
        "hours": run and [float(f"{seconds / 3600:.3g}") for seconds in run],
    }


def memory_table(plan: Plan) -> Table:
    """Return the memory of a step by what holds it, and the peak of each part of the run."""
    cost, apart = plan.cost, plan.cost.moving > plan.cost.activations
    unit, size_of_unit = unit_of(plan)
    of_step = {
        "network, frozen weights": cost.weights,
        "trained weights and their average": cost.adapters,
        "optimiser": cost.optimizer,
        "activations": cost.activations,
        "gradients" if apart else "(gradients, as activations go)": cost.gradients,
        "VAE and text encoder": cost.vae_and_text_encoder,
    }
    beside = {} if plan.on_cpu else {"main memory, to load and save": plan.main_bytes}
    peaks = {f"at the peak of {part}": size for part, size in plan.peaks.items()}
    where = "main memory" if plan.on_cpu else "memory on the device"
    table = Table(where, unit, title=f"one step, {plan.precision}")
    for rows in (of_step, peaks, beside):
        for name, size in rows.items():
            if size:
                table.add_row(name, f"{size / size_of_unit:.2f}")
        table.add_section()
    return table


def unit_of(plan: Plan) -> tuple[str, float]:
    """Return the unit that suits a plan's peak, and its bytes."""
    return ("GiB", GIB) if plan.peak_bytes >= GIB / 10 else ("MiB", GIB / 1024)


def changes_table(plan: Plan, found: Verdict) -> Table:
    """Return what each setting that makes a run fit saves, one after another."""
    (unit, size), before = unit_of(plan), plan.peak_bytes
    table = Table("setting", "saves", f"peak, {unit}", title="what makes it fit")
    table.add_row("as it is", "", f"{before / size:.2f}")
    for words, peak in found.changes:
        table.add_row(words, f"{(before - peak) / size:.2f}", f"{peak / size:.2f}")
        before = peak
    return table


def gpu_table(plan: Plan) -> Table:
    """Return which GPUs the run fits, and how long it takes there."""
    table = Table("GPU", "GiB", "fits", "a step", "all steps", title="predicted, not measured")
    for gpu in GPUS:
        step, run = plan.step_seconds(gpu), plan.run_seconds(gpu)
        times = [f"no {plan.precision} units", "no rate known"]
        if step and run:
            times = [in_time(step), in_time(run)]
        table.add_row(gpu.name, f"{gpu.gib:.0f}", "yes" if plan.fits(gpu) else "no", *times)
    return table


def in_time(seconds: tuple[float, float]) -> str:
    """Return a range of times in the unit that suits its end.

    >>> in_time((0.002, 0.37)), in_time((30.0, 90.0)), in_time((4000.0, 1e5))
    ('2 – 370 ms', '0.5 – 1.5 minutes', '0.046 – 1.2 days')
    """
    unit, size = next((u for u in UNITS if seconds[1] >= u[1]), UNITS[-1])
    shown = (
        f"{time / size:.0f}" if time >= 10 * size else f"{time / size:.2g}" for time in seconds
    )
    return f"{' – '.join(shown)} {unit}"


def summary(config: Config, plan: Plan, found: Verdict) -> str:
    """Return what the tables leave out, and whether the run fits."""
    rest = [
        f"{plan.trained_parameters / 1e6:.2f} M parameters are trained, in "
        f"{plan.trained_modules} modules{narrow(plan)}",
        f"{plan.cost.flops / 1e12:.3g} TFLOP a step of {plan.images_per_step} images",
        cache_summary(plan),
    ]
    if not plan.is_counted:
        many = "many shards" if is_here(config.data.path) else "not on this machine"
        rest.append(f"data.path {config.data.path} is {many} and was not counted")
    if plan.on_cpu:
        rest.append("no time is predicted for a CPU: a run's log has its images a second")
    return f"{'; '.join(rest)}; the run {found.words}."


def narrow(plan: Plan) -> str:
    """Return how many modules use a part of the rank alone, if there are any."""
    if not plan.narrow_modules:
        return ""
    return f", of which {plan.narrow_modules} have fewer inputs or outputs than adapter.rank"


def cache_summary(plan: Plan) -> str:
    """Return how much of the disk the cache takes, in words."""
    if not plan.cache_bytes_per_pair:
        return "there is no cache, as data.streaming is true"
    told = f"the cache takes {decimal(plan.cache_bytes_per_pair)} a pair"
    if plan.cache_bytes is not None:
        named = "" if plan.is_counted else " that data.num_pairs names"
        told += f", {decimal(plan.cache_bytes)} for {plan.num_pairs} pairs{named}"
    if plan.cache_bytes_per_caption:
        told += f", and {decimal(plan.cache_bytes_per_caption)} for each caption but the first"
    return told
