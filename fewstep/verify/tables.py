"""The bench's results as tables: the same rows for the terminal and for the docs."""

from typing import NamedTuple

from rich.table import Table as RichTable

from fewstep.verify.predictions import Results, plus_minus


class Table(NamedTuple):
    """A title, the names of the columns and the rows, all as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def rich_table(table: Table) -> RichTable:
    """Draw a table for the terminal, numbers to the right."""
    drawn = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(table.columns):
        numeric = all(row[i][0] in "0123456789-–" for row in table.rows)
        drawn.add_column(name, justify="right" if numeric else "left")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def solver_table(results: Results) -> Table:
    """The solvers' errors and orders of convergence."""
    rows = []
    for end, title in (("boundary", "to t = 249"), ("clean", "to clean data")):
        for solver, found in results["solvers"][end].items():
            errors = [f"{error:.2g}" for error in found["error"]]
            orders = [f"{found[name]:.2f}" for name in ("order", "median_order")]
            share = f"{found['worst_share'][-1]:.0%}"
            rows.append([f"{solver} {title}", *errors, *orders, share])
    steps = results["solvers"]["clean"]["ddim"]["steps"]
    columns = ["order", "order of the median", f"share of the worst 2 %, N = {steps[-1]}"]
    return Table("Solver error", ["", *(f"N = {n}" for n in steps), *columns], rows)


def bias_table(results: Results) -> Table:
    """Each objective's bias by number of solver steps."""
    bias = results["bias"]
    rows = [
        [name, *(f"{error:.3f}" for error in errors), f"{bias['stable-diffusion'][name]:.3f}"]
        for name, errors in bias["karras"].items()
    ]
    columns = ["", *(f"N = {n}" for n in bias["steps"]), "sampling grid, N = 40"]
    return Table("Bias of the objective (exact fixed points, one dimension)", columns, rows)


def mismatch_table(results: Results) -> Table:
    """A perfect student's error under each sampler."""
    rows = [
        [name, f"{found['same_noise']:.3f}", f"{found['energy']:.4f}"]
        for name, found in results["mismatch"].items()
    ]
    columns = ["perfect student, sampler", "same noise", "energy distance"]
    return Table("Mismatch of student and sampler", columns, rows)


def network_table(results: Results) -> Table:
    """Learned networks' errors, with that of the objective."""
    rows = []
    for row in results["networks"]:
        calls = f"{row['calls']} {row['sampler']}" if row["calls"] > 1 else "1"
        head = [row["world"], f"{row['guidance_scale']:g}", row["method"], calls]
        names = ("same_noise", "objective", "network", "energy")
        rows.append(head + [plus_minus(row[name]) if name in row else "–" for name in names])
    columns = ["data", "guidance", "method", "calls", "same noise", "of that, objective", "network"]
    return Table("Error of learned networks", [*columns, "energy distance"], rows)


def prediction_table(results: Results) -> Table:
    """What was predicted, what was measured, and whether it holds."""
    rows = []
    for found in results["predictions"]:
        refuted = f"no: {found['reason']}" if found["reason"] else "no"
        rows.append([found["claim"], found["measured"], "yes" if found["holds"] else refuted])
    return Table("Predictions", ["predicted", "measured", "holds"], rows)


TABLES = {
    "solvers": solver_table,
    "bias": bias_table,
    "mismatch": mismatch_table,
    "networks": network_table,
    "predictions": prediction_table,
}
"""The error, split into its causes; then what was expected of it."""
