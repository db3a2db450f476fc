"""What theory lets us expect of the bench, written down before its full run."""

from dataclasses import dataclass
from typing import Any

from fewstep.verify.checks import (
    Check,
    Results,
    cd_converges,
    closer_in_energy,
    halves_ddim,
    lands_at_the_fixed_point,
    matched_is_exact,
    mismatch_rises,
    noise_is_thrown_away,
    order_within,
    segments_halve_the_bias,
    segments_help_pseudo_huber,
    segments_help_training,
    small_c_never_converges,
)


@dataclass(frozen=True)
class Prediction:
    """A claim and its check; `reason` was added afterwards, where the full run refuted it."""

    claim: str
    check: Check
    reason: str = ""


PREDICTIONS = (
    Prediction(
        "DDIM's order is 1.0 ± 0.15 down to t = 249", order_within("boundary", "ddim", 0.85, 1.15)
    ),
    Prediction(
        "Heun's order is 2.0 ± 0.25 down to t = 249", order_within("boundary", "heun", 1.75, 2.25)
    ),
    Prediction(
        "Down to clean data DDIM's order is below 0.85: the lowest noise falls as N^-0.5 only",
        order_within("clean", "ddim", 0.0, 0.85),
    ),
    Prediction(
        "Down to clean data Heun's order is still above 1.25",
        order_within("clean", "heun", 1.25, 2.5),
    ),
    Prediction(
        "CD's fixed point converges as its DDIM teacher does, with order 0.9 ± 0.25", cd_converges
    ),
    Prediction(
        "Four segments at least halve CT's bias (squared error, most solver steps)",
        segments_halve_the_bias,
    ),
    Prediction(
        "With pseudo-Huber c = 0.001 CT's bias does not fall as N grows", small_c_never_converges
    ),
    Prediction(
        "Four segments help CT with pseudo-Huber c = 0.03 too (40 solver steps)",
        segments_help_pseudo_huber,
        "pseudo-Huber acts as a median, not as a mean, where the targets spread over more than c; "
        "on clean data they gather at the modes and few do, on an inner boundary most do, until "
        "there are so many solver steps that hardly any does: at N = 200 four segments are ahead",
    ),
    Prediction("A perfect student on its own grid misses by less than 1e-4", matched_is_exact),
    Prediction(
        "Mismatch costs more from row to row: ours, iCD with LCM, iCD with trailing, PCM with "
        "trailing, one segment in four DDIM steps, the teacher in four",
        mismatch_rises,
        "the order of PCM's edges and of one segment came from another mixture; both ask for jumps "
        "that nobody taught, and which of them costs more depends on the data",
    ),
    Prediction(
        "A perfect CD student in four stochastic steps is over twice as far from the same noise's "
        "truth as DDIM-4, and yet less than a quarter as far in energy distance",
        noise_is_thrown_away,
    ),
    Prediction("CD at one call at least halves DDIM-1's error", halves_ddim("cd", 1, 1.0)),
    Prediction("The same under guidance 3", halves_ddim("cd", 1, 3.0)),
    Prediction(
        "Multi-boundary CD at four calls at least halves DDIM-4's error",
        halves_ddim("multi-boundary-cd", 4, 1.0),
    ),
    Prediction("The same under guidance 3", halves_ddim("multi-boundary-cd", 4, 3.0)),
    Prediction(
        "CD at four stochastic calls beats DDIM-4 in energy distance", closer_in_energy(1.0)
    ),
    Prediction("The same under guidance 3", closer_in_energy(3.0)),
    Prediction(
        "Learned in the plane, multi-boundary CT is closer to the truth than CT",
        segments_help_training("plane"),
    ),
    Prediction("Learned on the line too", segments_help_training("line")),
    Prediction(
        "CT's students land closer to its fixed point than to the truth",
        lands_at_the_fixed_point("ct", 1),
    ),
    Prediction("So do multi-boundary CT's", lands_at_the_fixed_point("multi-boundary-ct", 4)),
)
"""In the order of the bench."""


def judge(results: Results) -> list[dict[str, Any]]:
    """Return every prediction with its outcome, and the reason where it is refuted."""
    judged = []
    for prediction in PREDICTIONS:
        measured, holds = prediction.check(results)
        reason = "" if holds else prediction.reason
        judged.append(
            {"claim": prediction.claim, "measured": measured, "holds": holds, "reason": reason}
        )
    return judged
