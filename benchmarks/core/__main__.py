"""`make bench`: the speed of masks and losses beside what they replace, and how it scales."""

from __future__ import annotations

import os

# One thread on each side; set before anything starts a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import write
from benchmarks.common.tables import Out, Rounds, judged, number, table
from benchmarks.common.workload import IMAGES
from benchmarks.core.losses import BOUND, SHAPE, time_losses
from benchmarks.core.masks import BOUNDS, PACKING_BOUND, time_masks
from benchmarks.core.scaling import SWEEPS, Sweep, Times, time_sweep
from cass_core import LossSpec

MaskTimes = dict[str, dict[str, float]]


def main(
    rounds: Rounds = 31,
    out: Out = None,
    plots: Annotated[Path | None, typer.Option(help="Also draw scaling.png there.")] = None,
) -> None:
    """Masks and losses in one thread, each figure a median of turns taken in one process.

    Fewer rounds than 10 also thin out the sweeps.
    """
    torch.set_num_threads(1)
    console = Console(width=140, highlight=False)
    masks = time_masks(rounds)
    console.print(mask_table(masks, rounds))
    losses = time_losses(rounds)
    console.print(loss_table(losses, rounds))
    sweeps = {}
    for sweep in SWEEPS:
        sweeps[sweep.axis] = time_sweep(sweep, rounds)
        console.print(sweep_table(sweep, sweeps[sweep.axis]))
    if out is not None:
        results = {
            "masks_microseconds_per_batch": masks,
            "losses_milliseconds_per_batch": losses,
            "scaling_seconds_per_call": sweeps,
        }
        write(out, f"make bench ROUNDS={rounds}", results)
    if plots is not None:
        from benchmarks.core.figures import draw_scaling  # needs matplotlib

        draw_scaling(sweeps, plots / "scaling.png")


def mask_table(masks: MaskTimes, rounds: int) -> Table:
    """Microseconds per image of each function, and ratios."""
    shown = ("audited", "heatmaps", "baseline", "improved", "from a list", "zeros")
    ratios = (("audited", "improved"), ("heatmaps", "improved"), ("improved", "zeros"))
    rows = (
        [
            name,
            *(number(times[function] / IMAGES) for function in shown),
            *(f"{times[slow] / times[fast]:,.0f}×" for slow, fast in ratios),
            judged(f"≥ {BOUNDS[name]}×", times["audited"] / times["improved"] >= BOUNDS[name]),
            judged(f"{times['packing']:.0f}", times["packing"] <= PACKING_BOUND),
        ]
        for name, times in masks.items()
    )
    caption = (
        f"list: what a list of arrays costs beyond the kernel, µs a batch, ≤ {PACKING_BOUND:.0f}"
    )
    title = f"Masks: µs an image of 1280×736, batches of {IMAGES}, median of {rounds}"
    return table(title, ("", *shown, *map(" / ".join, ratios), "bound", "list"), rows, caption)


def loss_table(losses: dict[str, dict[str, float]], rounds: int) -> Table:
    """Milliseconds of a loss and its gradient, by kind."""
    ratios = {kind: times["autograd"] / times["compute_loss"] for kind, times in losses.items()}
    rows = (
        (
            kind,
            *(f"{milliseconds:.2f}" for milliseconds in times.values()),
            f"{ratios[kind]:.1f}×",
            judged(f"≥ {BOUND}×", ratios[kind] >= BOUND) if kind == LossSpec().kind else "",
        )
        for kind, times in losses.items()
    )
    shape = "×".join(map(str, SHAPE))
    title = f"Loss and gradient: ms, {shape} float32 logits, median of {rounds}"
    return table(title, ("kind", "autograd", "compute_loss", "ratio", "bound"), rows)


def sweep_table(sweep: Sweep, times: Times) -> Table:
    """Microseconds of a call along a sweep."""
    lines = times.values()
    rows = (
        [f"{value:,}", *(number(1e6 * line[value]) if value in line else "" for line in lines)]
        for value in times["generate_mask"]
    )
    return table(f"Scaling: µs a call, {sweep.fixed}", (sweep.axis, *times), rows)


if __name__ == "__main__":
    typer.run(main)
