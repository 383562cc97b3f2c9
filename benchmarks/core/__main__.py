"""`make bench`: the speed of masks and losses beside what they replace, and how it scales."""

from __future__ import annotations

import os

# One thread on each side; set before anything starts a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common.measure import judged, write
from benchmarks.common.tables import Out, Rounds, show
from benchmarks.common.workload import IMAGES
from benchmarks.core.losses import BOUND, SHAPE, time_losses
from benchmarks.core.masks import mask_bounds, time_masks
from benchmarks.core.scaling import SWEEPS, time_sweep
from cass_core import LossSpec


def main(
    rounds: Rounds = 31,
    out: Out = None,
    plots: Annotated[Path | None, typer.Option(help="Also draw scaling.png there.")] = None,
) -> None:
    """Masks and losses in one thread, each figure a median of turns taken in one process.

    Fewer rounds than 10 also thin out the sweeps.
    """
    torch.set_num_threads(1)
    masks = time_masks(rounds)
    show(f"Masks: µs per batch of {IMAGES} images, 1280×736", masks)
    show("Their bounds", {stride: mask_bounds(stride, times) for stride, times in masks.items()})
    losses = time_losses(rounds)
    show(f"Loss and gradient: ms, {'×'.join(map(str, SHAPE))} float32 logits", losses)
    default = losses[LossSpec().kind]
    show("Its bound", judged(default["autograd"] / default["compute_loss"], least=BOUND))
    sweeps = {}
    for sweep in SWEEPS:
        sweeps[sweep.axis] = times = time_sweep(sweep, rounds)
        microseconds = {n: {v: 1e6 * s for v, s in line.items()} for n, line in times.items()}
        show(f"Scaling with {sweep.axis}: µs per call, {sweep.fixed}", microseconds)
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


if __name__ == "__main__":
    typer.run(main)
