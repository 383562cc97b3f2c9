"""Draws the sweeps: one figure, a panel a sweep, every line named in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from benchmarks.core.scaling import SWEEPS, Times

# Colour and label of each line, and whether the label is above it.
_LINES = {
    "audited": ("#b42318", "audited", True),
    "heatmaps": ("#b45f06", "CenterNet\nheatmaps", False),
    "improved": ("#0550ae", "generate_mask", True),
    "zeros": ("#6e7781", "filling with zeros", False),
}


def draw_scaling(sweeps: Mapping[str, Times], path: Path) -> None:
    """Write the panels of `SWEEPS`, side by side with one scale of time, as a PNG file."""
    # An opaque white: the words stay readable on a dark page.
    figure = Figure(figsize=(10.5, 4.4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SWEEPS), sharey=True, squeeze=False)
    for axes, sweep in zip(panels.flat, SWEEPS, strict=True):
        _draw_lines(axes, sweeps[sweep.axis])
        axes.set_title(sweep.fixed, fontsize=10.5)
        axes.set_xlabel(sweep.axis)
    panels[0, 0].set_ylabel("time of a call, one thread")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_lines(axes: Axes, times: Times) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, line in times.items():
        colour, label, above = _LINES[name]
        style = "--" if name == "zeros" else "-"
        axes.plot(list(line), list(line.values()), style, color=colour, marker="o", markersize=3)
        middle = list(line)[len(line) // 2]
        # Lines rise: there is room at the upper left and at the lower right of each.
        axes.annotate(
            label,
            (middle, line[middle]),
            xytext=(-6, 5) if above else (4, -8),
            textcoords="offset points",
            horizontalalignment="right" if above else "left",
            verticalalignment="bottom" if above else "top",
            color=colour,
        )
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, color="#d0d7de", linewidth=0.6)
