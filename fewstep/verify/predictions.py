"""What theory lets us expect of the bench, written down before its full run, and the checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Results = Mapping[str, Any]
Outcome = tuple[str, bool]
"""What was measured, as text, and whether it is as predicted."""

Check = Callable[[Results], Outcome]
Comparison = Callable[[Mapping[str, float], Mapping[str, float], float], Outcome]
"""Says whether one interval is below a factor times the other."""

Prediction = tuple[str, Check]

Row = tuple[str, int]
"""The method and the NFE of the learned networks, or of their teacher."""

CD_1, CD_4, MULTI_BOUNDARY_CD = ("cd", 1), ("cd", 4), ("multi-boundary-cd", 4)
CT, MULTI_BOUNDARY_CT = ("ct", 1), ("multi-boundary-ct", 4)
DDIM_1, DDIM_4 = ("teacher", 1), ("teacher", 4)


def network_row(
    results: Results, method: str, nfe: int, world: str = "plane", guidance_scale: float = 1
) -> dict:
    """Return the one row of the learned networks, or of their teacher, with these settings."""
    wanted = (world, guidance_scale, method, nfe)
    names = ("world", "guidance_scale", "method", "calls")
    (found,) = [r for r in results["networks"] if tuple(r[name] for name in names) == wanted]
    return found


def plus_minus(interval: Mapping[str, float]) -> str:
    """Write an interval as its middle and reach; below five values as its middle alone."""
    value, high = interval["value"], interval["high"]
    return f"{value:.3f}" if high is None else f"{value:.3f} ± {high - value:.3f}"


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], factor: float = 1) -> Outcome:
    """Hold if the whole interval of one value is below `factor` times the other's.

    Where there are too few values for intervals, nothing is shown and it does not hold.
    """
    measured = f"{plus_minus(ours)} against {plus_minus(theirs)}"
    high, low = ours["high"], theirs["low"]
    return measured, None not in (high, low) and high < factor * low


def in_mean(ours: Mapping[str, float], theirs: Mapping[str, float], factor: float = 1) -> Outcome:
    """Hold if one value's middle is below `factor` times the other's."""
    measured, _ = compare(ours, theirs)
    return measured, ours["value"] < factor * theirs["value"]


def closer(
    one: Row,
    other: Row,
    distance: str = "same_noise",
    factor: float = 1,
    by: Comparison = compare,
    **where: Any,
) -> Check:
    """Compare a distance of two rows."""

    def check(results: Results) -> Outcome:
        ours, theirs = (network_row(results, *row, **where)[distance] for row in (one, other))
        return by(ours, theirs, factor)

    return check


def learns_fixed_point(row: Row, by: Comparison = compare) -> Check:
    """Compare a network's distance to the objective's fixed point with that to the truth."""

    def check(results: Results) -> Outcome:
        found = network_row(results, *row, world="line")
        return by(found["network"], found["same_noise"], 1)

    return check


def order_within(end: str, solver: str, low: float, high: float) -> Check:
    """Return a check that a solver's order of convergence lies in a range."""

    def check(results: Results) -> Outcome:
        order = results["solvers"][end][solver]["order"]
        return f"{order:.2f}", low <= order <= high

    return check


def cd_converges(results: Results) -> Outcome:
    """CD's bias falls with about the first power of the number of solver steps."""
    steps, errors = results["bias"]["steps"][-2:], results["bias"]["karras"]["CD"][-2:]
    order = float(np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0]))
    return f"{order:.2f}", 0.65 <= order <= 1.15


def segments_divide_the_bias(least: float) -> Check:
    """Hold if four segments have the bias of one over `least`, at the most solver steps."""

    def check(results: Results) -> Outcome:
        bias = results["bias"]["karras"]
        ratio = bias["CT, squared error"][-1] / bias["CT, squared error, four segments"][-1]
        return f"{ratio:.1f} times less", ratio >= least

    return check


def segments_help_pseudo_huber(results: Results) -> Outcome:
    """Four segments lower the bias of CT with pseudo-Huber distance."""
    bias = results["bias"]["stable-diffusion"]
    one, four = (bias[f"CT, pseudo-Huber c = 0.03{more}"] for more in ("", ", four segments"))
    return f"{four:.3f} against {one:.3f}", four < one


def small_c_never_converges(results: Results) -> Outcome:
    """With a small c more solver steps do not lower the bias of CT."""
    first, *_, last = results["bias"]["karras"]["CT, pseudo-Huber c = 0.001"]
    return f"{first:.3f} to {last:.3f}", last >= first


def matched_is_exact(results: Results) -> Outcome:
    """A perfect student sampled at its own boundaries makes no error."""
    matched = next(iter(results["mismatch"].values()))["same_noise"]
    return f"{matched:.0e}", matched < 1e-4


def mismatch_rises(results: Results) -> Outcome:
    """The further a sampler departs from the student's boundaries, the larger the error."""
    errors = [entry["same_noise"] for entry in results["mismatch"].values()][:6]
    return " < ".join(f"{error:.3f}" for error in sorted(errors)), errors == sorted(errors)


def noise_is_replaced(results: Results) -> Outcome:
    """Fresh noise moves single samples far, and their distribution little."""
    *_, ddim_4, _, fresh = results["mismatch"].values()
    holds = (
        fresh["same_noise"] > 2 * ddim_4["same_noise"] and fresh["energy"] < ddim_4["energy"] / 4
    )
    measured = f"{fresh['same_noise']:.2f} against {ddim_4['same_noise']:.2f}; energy distance "
    return measured + f"{fresh['energy']:.4f} against {ddim_4['energy']:.4f}", holds


SOLVERS: tuple[Prediction, ...] = (
    ("DDIM's order is 1.0 ± 0.15 down to t = 249", order_within("boundary", "ddim", 0.85, 1.15)),
    ("Heun's order is 2.0 ± 0.25 down to t = 249", order_within("boundary", "heun", 1.75, 2.25)),
    (
        "Down to clean data DDIM's order is below 0.85: the lowest noise falls as N^-0.5 only",
        order_within("clean", "ddim", 0.0, 0.85),
    ),
    (
        "Down to clean data Heun's order is still above 1.25",
        order_within("clean", "heun", 1.25, 2.5),
    ),
    ("CD's fixed point converges as its DDIM teacher does, with order 0.9 ± 0.25", cd_converges),
)

SMALL_C: Prediction = (
    "With pseudo-Huber c = 0.001 CT's bias does not fall as N grows",
    small_c_never_converges,
)
MATCHED: Prediction = (
    "A perfect student on its own grid misses by less than 1e-4",
    matched_is_exact,
)
FRESH_NOISE: Prediction = (
    "A perfect CD student in four stochastic steps is over twice as far from the same noise's "
    "truth as DDIM-4, and yet less than a quarter as far in energy distance",
    noise_is_replaced,
)

PREDICTIONS: tuple[Prediction, ...] = (
    *SOLVERS,
    (
        "Four segments at least halve CT's bias (squared error, most solver steps)",
        segments_divide_the_bias(2),
    ),
    SMALL_C,
    (
        "Four segments help CT with pseudo-Huber c = 0.03 too (40 solver steps)",
        segments_help_pseudo_huber,
    ),
    MATCHED,
    (
        "Mismatch costs more from row to row: ours, iCD with LCM, iCD with trailing, PCM with "
        "trailing, one segment in four DDIM steps, the teacher in four",
        mismatch_rises,
    ),
    FRESH_NOISE,
    ("CD at one call at least halves DDIM-1's error", closer(CD_1, DDIM_1, factor=0.5)),
    ("The same under guidance 3", closer(CD_1, DDIM_1, factor=0.5, guidance_scale=3)),
    (
        "Multi-boundary CD at four calls at least halves DDIM-4's error",
        closer(MULTI_BOUNDARY_CD, DDIM_4, factor=0.5),
    ),
    ("The same under guidance 3", closer(MULTI_BOUNDARY_CD, DDIM_4, factor=0.5, guidance_scale=3)),
    ("CD at four stochastic calls beats DDIM-4 in energy distance", closer(CD_4, DDIM_4, "energy")),
    ("The same under guidance 3", closer(CD_4, DDIM_4, "energy", guidance_scale=3)),
    (
        "Learned in the plane, multi-boundary CT is closer to the truth than CT",
        closer(MULTI_BOUNDARY_CT, CT),
    ),
    ("Learned on the line too", closer(MULTI_BOUNDARY_CT, CT, world="line")),
    ("CT's students land closer to its fixed point than to the truth", learns_fixed_point(CT)),
    ("So do multi-boundary CT's", learns_fixed_point(MULTI_BOUNDARY_CT)),
)
"""Claims of the full bench with their checks, in its order."""

QUICK_PREDICTIONS: tuple[Prediction, ...] = (
    *SOLVERS,
    (
        "Four segments lower CT's bias by a third or more (squared error, 40 solver steps)",
        segments_divide_the_bias(1.5),
    ),
    SMALL_C,
    MATCHED,
    FRESH_NOISE,
    (
        "Trained for 200 steps, CD at one call is closer than DDIM-1, in the mean",
        closer(CD_1, DDIM_1, by=in_mean),
    ),
    ("The same under guidance 3", closer(CD_1, DDIM_1, by=in_mean, guidance_scale=3)),
    (
        "So is multi-boundary CD at four calls than DDIM-4",
        closer(MULTI_BOUNDARY_CD, DDIM_4, by=in_mean),
    ),
    (
        "The same under guidance 3",
        closer(MULTI_BOUNDARY_CD, DDIM_4, by=in_mean, guidance_scale=3),
    ),
    (
        "CD at four stochastic calls beats DDIM-4 in energy distance, in the mean",
        closer(CD_4, DDIM_4, "energy", by=in_mean),
    ),
    ("The same under guidance 3", closer(CD_4, DDIM_4, "energy", by=in_mean, guidance_scale=3)),
    (
        "Learned in the plane, multi-boundary CT is closer to the truth than CT",
        closer(MULTI_BOUNDARY_CT, CT),
    ),
    ("Learned on the line too", closer(MULTI_BOUNDARY_CT, CT, world="line")),
    (
        "CT's students land closer to its fixed point than to the truth, in the mean",
        learns_fixed_point(CT, in_mean),
    ),
    ("So do multi-boundary CT's", learns_fixed_point(MULTI_BOUNDARY_CT, in_mean)),
)
"""Claims of the quick bench, set by its first runs: its grids are coarser, its trainings short."""

REASONS: dict[Check, str] = {
    segments_help_pseudo_huber: (
        "pseudo-Huber acts as a median, not as a mean, where the targets spread over more than c; "
        "on clean data they gather at the modes and few do, on an inner boundary most do, until "
        "there are so many solver steps that hardly any does: at N = 200 four segments are ahead"
    ),
    mismatch_rises: (
        "the order of PCM's edges and of one segment came from another mixture; both ask for jumps "
        "that nobody taught, and which of them costs more depends on the data"
    ),
}
"""Added after the full run, for the claims that it refuted."""


def check_predictions(
    results: Results, predictions: Sequence[Prediction] = PREDICTIONS
) -> list[dict[str, Any]]:
    """Return every prediction with its outcome, and the reason where it is refuted."""
    checked = []
    for claim, check in predictions:
        measured, holds = check(results)
        reason = "" if holds else REASONS.get(check, "")
        checked.append({"claim": claim, "measured": measured, "holds": holds, "reason": reason})
    return checked


def unexplained(results: Results) -> list[str]:
    """Return the predictions of a bench's results that failed without a known reason."""
    checked = results["predictions"]
    return [p["claim"] for p in checked if not (p["holds"] or p["reason"])]
