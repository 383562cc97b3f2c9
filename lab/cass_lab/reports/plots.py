"""Figures of an ablation: recall against keep ratio, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cass_lab.data.objects import SHAPES, SIZES
from cass_lab.measures.ap import AP_NAMES
from cass_lab.measures.keeping import KEEP_RATIOS
from cass_lab.measures.statistics import Interval
from cass_lab.reports.comparison import Comparison, ap_difference
from cass_lab.training.detector import KEEP_RATIOS as DETECTOR_KEEP_RATIOS
from cass_lab.training.runs import Record
from cass_lab.training.variants import BASELINE

# Curves that the eye can separate; further variants are in the tables.
_CURVES = 5
_STYLES = ("o-", "s--", "^-.", "D:", "v-")


def recall_curves(comparison: Comparison) -> Figure:
    """Recall against keep ratio by size: baseline, improved, and those of the largest area."""
    ranked = sorted(comparison.others, key=lambda result: -comparison.area(result, "all").mean())
    named = [result for result in comparison.results if result.name in (BASELINE, "improved")]
    shown = (named + [result for result in ranked if result not in named])[:_CURVES]
    groups = ["all", *(size for size in SIZES if comparison.enough(size))]
    figure = Figure(figsize=(3.2 * len(groups), 3.6), layout="constrained")
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    percent = 100 * np.array(KEEP_RATIOS)
    for ax, group in zip(axes, groups, strict=True):
        for result, style in zip(shown, _STYLES, strict=False):
            seeds = np.stack([comparison.recall(result, group, k) for k in KEEP_RATIOS])
            ax.plot(percent, 100 * seeds.mean(1), style, label=result.name, markersize=4)
        ax.set_title(f"{group} ({comparison.num_objects(group)} objects)", fontsize=10)
        ax.set_xlabel("patches kept, %")
        ax.set_xticks(percent)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("recall of an object's patches, %")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown)
    )
    return figure


def recall_differences(comparison: Comparison, ratio: float) -> Figure:
    """Differences of recall to the baseline: all, small and elongated objects."""
    wanted = (SIZES[0], SIZES[1], SHAPES[0], SHAPES[1])
    groups = ["all", *(group for group in wanted if comparison.enough(group))]
    panels = {
        f"{group} objects": [
            comparison.recall_difference(result, group, ratio) for result in comparison.others
        ]
        for group in groups
    }
    names = [result.name for result in comparison.others]
    return _intervals(names, panels, f"recall at {100 * ratio:g} % kept, points above {BASELINE}")


def ap_differences(detectors: dict[str, list[Record]]) -> Figure:
    """Differences of AP to the baseline at the smallest keep ratio."""
    keep = min(DETECTOR_KEEP_RATIOS)
    names = [name for name in detectors if name != BASELINE]
    panels = {
        name: [
            ap_difference(detectors[variant], detectors[BASELINE], keep, name) for variant in names
        ]
        for name in AP_NAMES
    }
    return _intervals(names, panels, f"at {100 * keep:g} % kept, points above {BASELINE}")


def _intervals(names: Sequence[str], panels: dict[str, list[Interval]], label: str) -> Figure:
    """One row a variant, one panel a measure."""
    figure = Figure(
        figsize=(2.2 + 2.4 * len(panels), 1.4 + 0.26 * len(names)), layout="constrained"
    )
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    rows = np.arange(len(names))
    for ax, (title, intervals) in zip(axes, panels.items(), strict=True):
        ax.axvline(0, color="0.4", linewidth=1)
        for row, interval in zip(rows, intervals, strict=True):
            decided = interval.low > 0 or interval.high < 0
            colour = "tab:blue" if interval.difference > 0 else "tab:red"
            if not decided:
                colour = "0.55"
            if np.isfinite(interval.low):
                ax.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour)
            ax.plot(100 * interval.difference, row, "o", color=colour, markersize=4)
        ax.set_title(title, fontsize=10)
        ax.grid(axis="x", alpha=0.3)
        ax.set_yticks(rows, names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(label, fontsize=10)
    return figure
