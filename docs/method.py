"""Draws the pictures of method.md: docs/method-masks.png and docs/method-losses.png.

python docs/method.py docs/
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cass_core import LossSpec, MaskSpec, compute_loss, generate_mask

SIDE, CELLS, STRIDE = 384, 48, 8
BOX = (156.0, 108.0, 228.0, 276.0)  # taller than wide: 9 x 21 cells
PRESETS = {
    "baseline": MaskSpec.baseline(),
    "improved": MaskSpec.improved(),
    "cas_detr": MaskSpec.cas_detr(),
}
KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal", "soft_focal")
PROBABILITIES = np.linspace(0.005, 0.995, 199)


def masks_figure() -> Figure:
    """The mask of one box by each preset, and the values on the row through its centre."""
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    panels = figure.subplots(1, len(PRESETS) + 1, width_ratios=[1] * len(PRESETS) + [1.35])
    x1, y1, x2, y2 = (side / STRIDE for side in BOX)
    for panel, (name, spec) in zip(panels, PRESETS.items(), strict=False):
        mask = generate_mask([[BOX]], (SIDE, SIDE), (CELLS, CELLS), spec)[0]
        shown = panel.imshow(mask, cmap="inferno", vmin=0, vmax=1, extent=(0, CELLS, CELLS, 0))
        panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="cyan"))
        panel.set_title(name, fontsize=10)
    figure.colorbar(shown, ax=list(panels[:-1]), fraction=0.03, label="target")
    last, fine = panels[-1], 8
    for name, spec in PRESETS.items():
        # On a map so fine that the row looks continuous: all lengths of the spec are in cells.
        spec = spec.replace(min_size=0.0, min_radius=0.0, temperature="fixed")
        row = generate_mask([[BOX]], (SIDE, SIDE), (CELLS * fine, CELLS * fine), spec)[0]
        middle = row.shape[0] // 2
        last.plot((np.arange(row.shape[1]) + 0.5) / fine, row[middle], label=name)
    last.axvspan(x1, x2, color="0.9")
    last.set_title("along the row through the centre", fontsize=10)
    last.set_xlabel("cells")
    last.set_xlim(8, 40)
    last.legend(fontsize=8, loc="center")
    return figure


def losses_figure() -> Figure:
    """Each loss against the predicted probability, for three targets."""
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    logits = np.log(PROBABILITIES / (1 - PROBABILITIES))
    for panel, target in zip(panels, (0.0, 0.5, 1.0), strict=True):
        for kind, style in zip(KINDS, itertools.cycle(["-", "--", "-.", ":"]), strict=False):
            spec = LossSpec(kind=kind, reduction="none")
            found = compute_loss(logits[None], np.full((1, logits.size), target), spec)
            panel.plot(PROBABILITIES, np.asarray(found.loss)[0], style, label=kind)
        panel.set_title(f"target y = {target:g}", fontsize=10)
        panel.set_xlabel("probability p")
        panel.set_ylim(0, 3)
    panels[0].set_ylabel("loss of a patch")
    panels[1].legend(fontsize=8)
    return figure


def main(folder: Annotated[Path, typer.Argument(help="Where to write the pictures.")]) -> None:
    """Draw both."""
    masks_figure().savefig(folder / "method-masks.png", dpi=110)
    losses_figure().savefig(folder / "method-losses.png", dpi=110)


if __name__ == "__main__":
    typer.run(main)
