"""Draws the sweeps: one figure, three panels, every line named in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.core.scaling import SWEEPS, Times

_INK = "#24292f"
_LINES = {
    "audited": "#b42318",
    "heatmaps": "#b45f06",
    "generate_mask": "#0550ae",
    "zeros": "#6e7781",
}
_NAMES = {"heatmaps": "CenterNet\nheatmaps", "zeros": "filling with zeros"}


def draw_scaling(sweeps: Mapping[str, Times], path: Path) -> None:
    """Write the panels of `SWEEPS`, side by side with one scale of time, as a PNG file."""
    # An opaque white: the words stay readable on a dark page.
    figure = Figure(figsize=(10.5, 4.4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SWEEPS), sharey=True, squeeze=False)
    for axes, sweep in zip(panels.flat, SWEEPS, strict=True):
        _draw_lines(axes, sweeps[sweep.axis])
        axes.set_title(sweep.fixed, fontsize=10.5, color=_INK)
        axes.set_xlabel(sweep.axis, color=_INK)
    panels[0, 0].set_ylabel("time of a call, one thread", color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_lines(axes: Axes, times: Times) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, line in times.items():
        ours = name == "generate_mask"
        axes.plot(
            list(line),
            list(line.values()),
            color=_LINES[name],
            linewidth=2.4 if ours else 1.5,
            linestyle=(0, (4, 2)) if name == "zeros" else "-",
            marker="o",
            markersize=4 if ours else 2.5,
        )
        middle = list(line)[len(line) // 2]
        # Lines rise: there is room at the upper left and at the lower right of each.
        above = name in ("audited", "generate_mask")
        axes.annotate(
            _NAMES.get(name, name),
            (middle, line[middle]),
            xytext=(-6, 5) if above else (4, -8),
            textcoords="offset points",
            horizontalalignment="right" if above else "left",
            verticalalignment="bottom" if above else "top",
            color=_LINES[name],
            fontsize=10.5,
            fontweight="bold" if ours else "normal",
        )
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(_duration))
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)


def _duration(seconds: float, _: object = None) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.999 * size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds / 1e-9:g} ns"


def _count(value: float, _: object = None) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
