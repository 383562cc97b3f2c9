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
from benchmarks.core.losses import BOUND, SHAPE, time_losses
from benchmarks.core.masks import CASES, IMAGES, PACKING_BOUND, time_masks
from benchmarks.core.scaling import SWEEPS, Sweep, Times, time_sweep
from cass_core import LossSpec

MaskTimes = dict[str, dict[str, float]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each function gets.")] = 31,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Also draw scaling.png there.")] = None,
) -> None:
    """Masks and losses in one thread, each figure a median of turns taken in one process.

    Fewer rounds than 10 also thin out the sweeps.
    """
    torch.set_num_threads(1)
    console = Console(width=140, highlight=False)
    masks = time_masks(rounds)
    console.print(mask_table(masks, rounds), packing_table(masks))
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
    """Microseconds an image of each function, and ratios."""
    shown = ("audited", "heatmaps", "baseline", "improved", "from a list", "zeros")
    ratios = (("audited", "improved"), ("heatmaps", "improved"), ("improved", "zeros"))
    table = _table(
        f"Masks: µs an image of 1280×736, batches of {IMAGES}, median of {rounds}",
        "",
        "patches",
        "boxes",
        *shown,
        *(f"{slow} / {fast}" for slow, fast in ratios),
        "bound",
    )
    for name, case in CASES.items():
        times = masks[name]
        table.add_row(
            name,
            "×".join(map(str, case.feature_map)),
            str(case.boxes),
            *(_number(times[function] / IMAGES) for function in shown),
            *(f"{times[slow] / times[fast]:,.0f}×" for slow, fast in ratios),
            _bound(times["audited"] / times["improved"] >= case.bound, f"≥ {case.bound:.0f}×"),
        )
    return table


def packing_table(masks: MaskTimes) -> Table:
    """What a list of arrays costs beyond the kernel."""
    table = _table(
        f"Packing and checks: µs a batch of {IMAGES}",
        *("", "from a list", "bare kernel", "difference", "bound"),
    )
    for name, times in masks.items():
        extra = times["packing"]
        table.add_row(
            name,
            f"{times['from a list']:.1f}",
            f"{times['bare kernel']:.1f}",
            f"{extra:.1f}",
            _bound(extra <= PACKING_BOUND, f"≤ {PACKING_BOUND:.0f}"),
        )
    return table


def loss_table(losses: dict[str, dict[str, float]], rounds: int) -> Table:
    """Milliseconds of a loss and its gradient, by kind."""
    shape = "×".join(map(str, SHAPE))
    table = _table(
        f"Loss and gradient: ms, {shape} float32 logits, median of {rounds}",
        *("kind", "autograd", "compute_loss", "ratio", "bound"),
    )
    for kind, times in losses.items():
        ratio = times["autograd"] / times["compute_loss"]
        default = kind == LossSpec().kind
        table.add_row(
            kind,
            f"{times['autograd']:.2f}",
            f"{times['compute_loss']:.2f}",
            f"{ratio:.1f}×",
            _bound(ratio >= BOUND, f"≥ {BOUND}×") if default else "",
        )
    return table


def sweep_table(sweep: Sweep, times: Times) -> Table:
    """Microseconds of a call along a sweep."""
    table = _table(f"Scaling: µs a call, {sweep.fixed}", sweep.axis, *times)
    for value in times["generate_mask"]:
        cells = (line.get(value) for line in times.values())
        table.add_row(
            f"{value:,}", *("" if cell is None else _number(cell * 1e6) for cell in cells)
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _number(value: float) -> str:
    """About three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bound(kept: bool, bound: str) -> str:
    return f"[green]{bound} ✓[/]" if kept else f"[red]{bound} ✗[/]"


if __name__ == "__main__":
    typer.run(main)
