"""The bench in one image: the four parts of the error, a panel each."""

from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fewstep.colours import BLUE, GREY, INK, LAVENDER, MAGENTA, OLIVE, ORANGE, TEAL
from fewstep.files import write_file
from fewstep.verify.predictions import Results

METHOD_STYLES = {
    "teacher": ("DDIM, undistilled", "white"),
    "cd": ("CD", BLUE),
    "multi-boundary-cd": ("multi-boundary CD", TEAL),
    "ct": ("CT", ORANGE),
    "multi-boundary-ct": ("multi-boundary CT", MAGENTA),
}


def plot(results: Results, path: Path) -> None:
    """Draw the four panels and save them as one PNG."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    figure = Figure(figsize=(12.5, 9.8), dpi=150, layout=layout)
    panels = (solver_panel, bias_panel, mismatch_panel, network_panel)
    for draw, axes in zip(panels, figure.subplots(2, 2).flat, strict=True):
        draw(axes, results)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.title.set(fontsize=11.5, fontweight="bold", color=INK)
    content = BytesIO()
    figure.savefig(content, format="png")
    write_file(path, content.getvalue())


def solver_panel(axes: Axes, results: Results) -> None:
    """Errors against steps, on logarithmic axes, with the slopes in the legend."""
    colours = {"ddim": BLUE, "heun": ORANGE}
    for end, style, title in (("boundary", "-", "to t = 249"), ("clean", "--", "to clean data")):
        for solver, found in results["solvers"][end].items():
            label, colour = f"{solver} {title}: order {found['order']:.2f}", colours.get(solver)
            axes.loglog(
                found["steps"], found["error"], style, marker="o", ms=4, color=colour, label=label
            )
    steps = results["solvers"]["clean"]["ddim"]["steps"]
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.minorticks_off()
    axes.set(title="Solver error", xlabel="steps", ylabel="RMS distance to the exact flow")
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def bias_panel(axes: Axes, results: Results) -> None:
    """Errors of the fixed points against the solver's steps."""
    steps, errors = results["bias"]["steps"], results["bias"]["karras"]
    colours = [BLUE, ORANGE, OLIVE, LAVENDER, TEAL, TEAL, MAGENTA]
    for (name, values), colour in zip(errors.items(), colours, strict=True):
        style = "--" if "four" in name else "-"
        axes.semilogx(steps, values, style, marker="o", ms=4, color=colour, label=name)
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.minorticks_off()
    axes.set_ylim(0, 1.75 * max(map(max, errors.values())))
    axes.set(title="Bias of the objective", xlabel="solver steps N", ylabel="RMS error, 1-D")
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def mismatch_panel(axes: Axes, results: Results) -> None:
    """A bar for each pair of a perfect student and a deterministic sampler."""
    found = {name: row["same_noise"] for name, row in results["mismatch"].items()}
    found.popitem()  # stochastic: not to be compared from the same noise
    names = list(found)[::-1]
    colours = [GREY if name.startswith("no student") else BLUE for name in names]
    bars = axes.barh(names, [found[name] for name in names], color=colours, height=0.62)
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=9, color=INK)
    axes.margins(x=0.15)
    axes.set(title="Mismatch of student and sampler", xlabel="RMS error / RMS of the data")


def network_panel(axes: Axes, results: Results) -> None:
    """The learned students beside DDIM at the same NFE, with 95 % intervals."""
    groups = [(1, 1.0), (1, 3.0), (4, 1.0), (4, 3.0)]
    labels = dict(METHOD_STYLES)
    for x, group in enumerate(groups):
        rows = [
            row
            for row in results["networks"]
            if (row["calls"], row["guidance_scale"]) == group
            and (row["world"], row["sampler"]) == ("plane", "deterministic")
        ]
        for i, row in enumerate(rows):
            label, _ = labels.pop(row["method"], (None, None))
            value = row["same_noise"]
            reach = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
            axes.bar(
                x + (i - (len(rows) - 1) / 2) * 0.25, value["value"], 0.22, yerr=reach,
                color=METHOD_STYLES[row["method"]][1], edgecolor=INK, linewidth=0.8, capsize=3,
                ecolor=INK, label=label,
            )  # fmt: skip
    names = [f"calls: {calls}\nguidance: {scale:g}" for calls, scale in groups]
    axes.set_xticks(range(len(groups)), names)
    axes.set(title="Error of learned networks", ylabel="RMS error / RMS of the data")
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
