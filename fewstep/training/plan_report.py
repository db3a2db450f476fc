"""A plan as two tables and a sentence, or as JSON for programs."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from fewstep.config import Config
from fewstep.training.gpus import GIB, GPUS, Gpu
from fewstep.training.memory import Room, advice
from fewstep.training.plan import Plan, plan_run

UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("s", 1.0), ("ms", 1e-3))


def show_plan(config: Config, *, on_cpu: bool, as_json: bool) -> None:
    """Plan a run, and print it as JSON, or as two tables and a sentence."""
    plan, console = plan_run(config, on_cpu=on_cpu), Console()
    if as_json:
        print(to_json(config, plan))
        return
    console.print(memory_table(plan))
    if not on_cpu:
        console.print(gpu_table(plan))
    console.print(summary(config, plan), highlight=False)


def verdict(config: Config, plan: Plan) -> str:
    """Return whether the run fits a T4, or on the CPU this machine."""
    if plan.on_cpu:
        return advice(config, plan, Room.here("cpu"))
    told = advice(config, plan, Room.of(GPUS[0]))
    if GPUS[0].computes(plan.precision):
        return told
    return f"{told}, which has no units for {plan.precision}: set model.precision = fp16 for it"


def to_json(config: Config, plan: Plan) -> str:
    """Return the plan for programs; times are in seconds and hours, None where no rate is known."""
    entries = {
        **asdict(plan),
        "peak_bytes": plan.peak_bytes,
        "cache_bytes": plan.cache_bytes,
        "cards": {} if plan.on_cpu else {gpu.name: _card(plan, gpu) for gpu in GPUS},
        "verdict": verdict(config, plan),
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
    unit, size_of_unit = ("GiB", GIB) if plan.peak_bytes >= GIB / 10 else ("MiB", GIB / 1024)
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


def summary(config: Config, plan: Plan) -> str:
    """Return what the tables leave out, and whether the run fits."""
    rest = [
        f"{plan.trained_parameters / 1e6:.2f} M parameters are trained, in "
        f"{plan.trained_modules} modules{narrow(plan)}",
        f"{plan.cost.flops / 1e12:.3g} TFLOP a step of {plan.images_per_step} images",
        cache_summary(config, plan),
    ]
    if plan.on_cpu:
        rest.append("no time is predicted for a CPU: a run's log has its images a second")
    return f"{'; '.join(rest)}; the run {verdict(config, plan)}."


def narrow(plan: Plan) -> str:
    """Return how many modules use a part of the rank alone, if there are any."""
    if not plan.narrow_modules:
        return ""
    return f", of which {plan.narrow_modules} have fewer inputs or outputs than adapter.rank"


def cache_summary(config: Config, plan: Plan) -> str:
    """Return how much of the disk the cache takes, in words."""
    if not plan.cache_bytes_per_pair:
        return "there is no cache, as data.streaming is true"
    told = f"the cache takes {decimal(plan.cache_bytes_per_pair)} a pair"
    if plan.cache_bytes is not None:
        pairs = f"{plan.num_pairs} pairs"
        if not plan.is_counted:
            pairs += f" that data.num_pairs names, as {config.data.path} was not counted"
        told += f", {decimal(plan.cache_bytes)} for {pairs}"
    if plan.cache_bytes_per_caption:
        told += f", and {decimal(plan.cache_bytes_per_caption)} for each caption but the first"
    return told
