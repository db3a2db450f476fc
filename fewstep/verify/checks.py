"""Whether the bench's results are as predicted: one check a prediction, each with what it saw."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Results = Mapping[str, Any]
Outcome = tuple[str, bool]
"""What was measured, in words, and whether it is as predicted."""

Check = Callable[[Results], Outcome]


def row(results: Results, world: str, guidance_scale: float, method: str, calls: int) -> dict:
    """Return the one row of the learned networks, or of their teacher, that is meant."""
    wanted = (world, guidance_scale, method, calls)
    names = ("world", "guidance_scale", "method", "calls")
    (found,) = [r for r in results["networks"] if tuple(r[name] for name in names) == wanted]
    return found


def order_within(end: str, solver: str, low: float, high: float) -> Check:
    def check(results: Results) -> Outcome:
        order = results["solvers"][end][solver]["order"]
        return f"{order:.2f}", low <= order <= high

    return check


def cd_converges(results: Results) -> Outcome:
    steps, errors = results["bias"]["steps"][-2:], results["bias"]["karras"]["CD"][-2:]
    order = float(np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0]))
    return f"{order:.2f}", 0.65 <= order <= 1.15


def segments_halve_the_bias(results: Results) -> Outcome:
    bias = results["bias"]["karras"]
    ratio = bias["CT, squared error"][-1] / bias["CT, squared error, four segments"][-1]
    return f"{ratio:.1f} times less", ratio >= 2


def segments_help_pseudo_huber(results: Results) -> Outcome:
    bias = results["bias"]["stable-diffusion"]
    one, four = (bias[f"CT, pseudo-Huber c = 0.03{more}"] for more in ("", ", four segments"))
    return f"{four:.3f} against {one:.3f}", four < one


def small_c_never_converges(results: Results) -> Outcome:
    bias = results["bias"]["karras"]
    small = bias["CT, pseudo-Huber c = 0.001"]
    return f"{small[0]:.3f} to {small[-1]:.3f}", small[-1] >= small[0]


def matched_is_exact(results: Results) -> Outcome:
    matched = next(iter(results["mismatch"].values()))["same_noise"]
    return f"{matched:.0e}", matched < 1e-4


def mismatch_rises(results: Results) -> Outcome:
    errors = [entry["same_noise"] for entry in results["mismatch"].values()][:6]
    return " < ".join(f"{error:.3f}" for error in sorted(errors)), errors == sorted(errors)


def noise_is_thrown_away(results: Results) -> Outcome:
    *_, ddim_4, _, fresh = results["mismatch"].values()
    further = fresh["same_noise"] > 2 * ddim_4["same_noise"]
    closer = fresh["energy"] < ddim_4["energy"] / 4
    told = f"{fresh['same_noise']:.2f} against {ddim_4['same_noise']:.2f}; energy distance "
    return told + f"{fresh['energy']:.4f} against {ddim_4['energy']:.4f}", further and closer


def halves_ddim(method: str, calls: int, guidance_scale: float) -> Check:
    def check(results: Results) -> Outcome:
        ours = row(results, "plane", guidance_scale, method, calls)["same_noise"]
        ddim = row(results, "plane", guidance_scale, "teacher", calls)["same_noise"]
        return compared(ours, ddim), ours["high"] < ddim["low"] / 2

    return check


def closer_in_energy(guidance_scale: float) -> Check:
    def check(results: Results) -> Outcome:
        ours = row(results, "plane", guidance_scale, "cd", 4)["energy"]
        ddim = row(results, "plane", guidance_scale, "teacher", 4)["energy"]
        return compared(ours, ddim), ours["high"] < ddim["low"]

    return check


def segments_help_training(world: str) -> Check:
    def check(results: Results) -> Outcome:
        four = row(results, world, 1.0, "multi-boundary-ct", 4)["same_noise"]
        one = row(results, world, 1.0, "ct", 1)["same_noise"]
        return compared(four, one), four["high"] < one["low"]

    return check


def lands_at_the_fixed_point(method: str, calls: int) -> Check:
    def check(results: Results) -> Outcome:
        learned = row(results, "line", 1.0, method, calls)
        told = compared(learned["network"], learned["same_noise"])
        return told, learned["network"]["high"] < learned["same_noise"]["low"]

    return check


def compared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    return f"{told(ours)} against {told(theirs)}"


def told(interval: Mapping[str, float]) -> str:
    """Write an interval as its middle and reach."""
    return f"{interval['value']:.3f} ± {interval['high'] - interval['value']:.3f}"
