"""Results as HTML tables: every number with its interval and its number of images."""

from collections.abc import Sequence
from html import escape

from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.labels import capital, counted, line_title, metric_title, shown, shown_range
from fewstep.evaluation.results import Row


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return a table of the named metrics, a row each; a cell is a value over its interval.

    The number of images stands in the column's head where it is the same in all rows.
    """
    counts = {name: {row.metrics[name].n for row in rows if name in row.metrics} for name in names}
    heads = ["<th>Method</th>", *(head(name, counts[name]) for name in names)]
    body = []
    for row in rows:
        cells = [way(row, rows)]
        cells += [cell(name, row.metrics.get(name), len(counts[name]) > 1) for name in names]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>{''.join(body)}</tbody></table></div>\n"
    )


def way(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's head: the method, and what one image costs it."""
    cost = f"{counted(row.steps, 'step')}, {counted(row.calls, 'call')}"
    seed = "" if row.seed is None else f", seed {row.seed}"
    name = escape(line_title(row, rows))
    return f'<th scope="row">{name}<small>{cost}{seed}</small></th>'


def head(name: str, counts: set[int]) -> str:
    """Return a column's head."""
    n = f"<small>n = {next(iter(counts)):,}</small>" if len(counts) == 1 else ""
    return f"<th>{escape(capital(metric_title(name)))}{n}</th>"


def cell(name: str, metric: Interval | None, own_n: bool) -> str:
    """Return a value and its interval, or a dash where nothing was measured."""
    if metric is None:
        return "<td>–</td>"
    n = f", n = {metric.n:,}" if own_n else ""
    ends = escape(shown_range(name, metric) + n)
    return f"<td>{escape(shown(name, metric.value))}<small>{ends}</small></td>"
