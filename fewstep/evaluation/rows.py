"""From numbers, one an image, to rows of a table: intervals, and trainings pooled."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fewstep.evaluation.intervals import Values, pooled, proportion
from fewstep.evaluation.measure import Measured
from fewstep.evaluation.metrics import METRICS
from fewstep.evaluation.metrics.prompt_accuracy import Verdict, by_attribute
from fewstep.evaluation.results import SEVERAL, Row


def as_row(measured: Measured) -> Row:
    """Put intervals around one contestant's numbers."""
    contestant = measured.contestant
    metrics = {name: METRICS[name].interval(values) for name, values in measured.values.items()}
    metrics |= {name: proportion(held) for name, held in by_kind(measured.verdicts).items()}
    metrics |= measured.costs
    return Row(
        contestant.source, contestant.method, contestant.steps, contestant.calls,
        contestant.seed, metrics,
    )  # fmt: skip


def by_kind(judged: list[Verdict]) -> dict[str, Values]:
    return {f"prompt_accuracy.{kind}": held for kind, held in by_attribute(judged).items()}


def pooled_rows(measured: Sequence[Measured]) -> list[Row]:
    """Return a row for each number of steps that trainings of one setting share."""
    groups: dict[tuple[str, str, int], list[Measured]] = defaultdict(list)
    for one in measured:
        who = one.contestant
        if who.method != "teacher":
            groups[who.method, who.settings, who.steps].append(one)
    return [pooled_row(group) for group in groups.values() if len(group) > 1]


def pooled_row(group: Sequence[Measured]) -> Row:
    """Return one row for several trainings: its source names them all, its costs are one's."""
    numbers = [one.values | by_kind(one.verdicts) for one in group]
    metrics = {name: pooled(np.stack([each[name] for each in numbers])) for name in numbers[0]}
    metrics |= group[0].costs
    first = group[0].contestant
    sources = SEVERAL.join(one.contestant.source for one in group)
    return Row(sources, first.method, first.steps, first.calls, None, metrics)
