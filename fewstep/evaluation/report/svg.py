"""A plot as inline SVG, whose ink is the page's own text colour: readable in light and in dark."""

import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
}


def drawn(draw: Callable[[Axes], None], title: str) -> str:
    """Draw and return the SVG element: no outside reference, no idle ids, the same every time."""
    with rc_context(cast(Any, {**STYLE, "svg.hashsalt": title})):
        figure = Figure(figsize=(4.9, 3.3), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.4, labelspacing=0.35)
        buffer = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    size = re.search(r'width="[^"]+" height="[^"]+"', svg)
    name = f'role="img" aria-label="{escape(title)}"'
    return svg.replace(size[0], name, 1) if size else svg
