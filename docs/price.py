"""Draws price.png: boxes that larger patches leave out, and what weights by object cost large ones.

    python docs/price.py --out docs/price.png \
        --data cones=cones/test.json --runs cones=docs/ablation/cones/weights/runs.jsonl \
        --data carla=carla/test.json --runs carla=docs/ablation/carla/weights/runs.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cass_cli.coco import read_coco
from cass_cli.options import feature_map
from cass_core import MaskSpec, boxes_without_patch
from cass_lab.data.objects import SIZES
from cass_lab.reports.comparison import LEAST_OBJECTS
from cass_lab.training.runs import Record

PATCH_SIZES = (1, 2, 4)
STRIDE = 8
KEEP = "0.1"
# Variants of cass ablate, and how the figure shows them.
PATCH, OBJECT = "improved, cornernet", "object weights, cornernet"
LABELS = {
    PATCH: ("each patch weighs alike", "tab:orange", "o"),
    OBJECT: ("each object weighs alike", "tab:blue", "s"),
}


def main(
    data: Annotated[list[str], typer.Option(help="NAME=annotations.json, a data set each.")],
    runs: Annotated[list[str], typer.Option(help="NAME=runs.jsonl of cass ablate.")],
    out: Annotated[Path, typer.Option(help="The figure to write.")],
) -> None:
    """Draw the figure."""
    files, results = (dict(named.split("=", 1) for named in given) for given in (data, runs))
    figure = Figure(figsize=(3.4 * (1 + len(results)), 3.6), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(results))
    draw_without_patch(first, {name: without_patch(Path(path)) for name, path in files.items()})
    for ax, (name, path) in zip(others, results.items(), strict=True):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        draw_recall(ax, name, [json.loads(line) for line in lines])
    handles, labels = others[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=9)
    figure.savefig(out, dpi=110)
    typer.echo(str(out))


def without_patch(coco: Path) -> list[float]:
    """Percent of the boxes that hold no patch's centre, for each of `PATCH_SIZES`."""
    file = read_coco(coco)
    lost = np.zeros(len(PATCH_SIZES))
    for i in range(len(file.image_ids)):
        grid = feature_map(file.size(i), STRIDE)
        padded = grid[0] * STRIDE, grid[1] * STRIDE
        boxes = file.boxes(i, i + 1)
        for k, side in enumerate(PATCH_SIZES):
            lost[k] += boxes_without_patch(boxes, padded, grid, MaskSpec(patch_size=side)).sum()
    return [float(share) for share in 100 * lost / len(file.xyxy)]


def draw_without_patch(ax: Axes, shares: dict[str, list[float]]) -> None:
    """One group of bars a patch size."""
    width = 0.8 / len(shares)
    for k, (name, values) in enumerate(shares.items()):
        x = np.arange(len(values)) + (k - (len(shares) - 1) / 2) * width
        bars = ax.bar(x, values, width, label=name, color=("0.35", "tab:cyan", "0.7")[k])
        ax.bar_label(bars, fmt="%.0f", fontsize=9)
    ax.set_xticks(range(len(PATCH_SIZES)), map(str, PATCH_SIZES))
    ax.set_xlabel("patch_size")
    ax.set_ylim(0, 100)
    ax.set_ylabel("%")
    ax.set_title("boxes without a patch, stride 8", fontsize=10)
    ax.legend(fontsize=9)


def draw_recall(ax: Axes, name: str, records: list[Record]) -> None:
    """Recall by size with either balance, a dot a seed, and the difference of the means."""
    found = {
        variant: sorted(
            (record for record in records if record["variant"] == variant),
            key=lambda record: int(record["settings"]["seed"]),
        )
        for variant in (PATCH, OBJECT)
    }
    groups = found[PATCH][0]["results"]["groups"]
    sizes = [s for s in SIZES if s in groups and groups[s]["objects"] >= LEAST_OBJECTS]
    means = {}
    for variant, (label, colour, mark) in LABELS.items():
        recall = [100 * recall_of(found[variant], size) for size in sizes]
        means[variant] = [float(seeds.mean()) for seeds in recall]
        ax.plot(means[variant], mark + "-", color=colour, label=label)
        for x, seeds in enumerate(recall):
            ax.plot([x] * len(seeds), seeds, ".", color="black", markersize=3, zorder=3)
    for x, (patch, by_object) in enumerate(zip(means[PATCH], means[OBJECT], strict=True)):
        ax.text(x, -13, f"{by_object - patch:+.0f}", ha="center", fontsize=10, weight="bold")
    ax.set_xticks(range(len(sizes)), [f"{s}\n({groups[s]['objects']})" for s in sizes], fontsize=9)
    ax.set_xlim(-0.4, len(sizes) - 0.6)
    ax.set_ylim(-18, 104)
    ax.set_yticks(range(0, 101, 20))
    ax.grid(axis="y", alpha=0.3)
    ax.set_title(f"{name}: recall at 10 % kept, by size", fontsize=10)


def recall_of(records: list[Record], group: str) -> npt.NDArray[np.float64]:
    """Recall of a group's objects at `KEEP`, by seed."""
    return np.array([record["results"]["groups"][group]["recall"][KEEP] for record in records])


if __name__ == "__main__":
    typer.run(main)
