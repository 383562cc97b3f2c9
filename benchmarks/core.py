"""`make bench-core`: generate_mask beside the audited algorithm, in one process, interleaved."""

from __future__ import annotations

import os

# One thread on each side; set before anything starts a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.audited import audited_masks
from benchmarks.measure import interleaved, write
from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.scenes import street_boxes

IMAGES = 16
IMAGE_SIZE = (736, 1280)
# Feature map, boxes an image, ratio to reach.
CASES = {"stride 32": ((23, 40), 15, 250), "stride 8": ((92, 160), 30, 800)}


def run(rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds an image and ratios of each case."""
    torch.set_num_threads(1)
    results = {}
    for name, (feature_map, boxes, _) in CASES.items():
        arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
        tensors = [torch.from_numpy(a) for a in arrays]
        batch = BoxBatch.from_list(arrays)
        out = np.empty((IMAGES, *feature_map), np.float32)

        baseline = MaskSpec.baseline().replace(patch_size=1)
        improved = MaskSpec(patch_size=1)
        old = audited_masks(tensors, IMAGE_SIZE, feature_map, patch_size=1)
        new = generate_mask(batch, IMAGE_SIZE, feature_map, baseline)
        # Float32 may put a patch centre on either side of an edge: let a few differ.
        same = np.isclose(new, old.numpy(), atol=1e-4).mean()
        if same < 0.999:
            raise SystemExit(f"{name}: the masks differ ({same:.4%} equal)")
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "audited": (
                partial(audited_masks, tensors, IMAGE_SIZE, feature_map, patch_size=1),
                1,
            ),
            "cass baseline": (partial(generate_mask, batch, IMAGE_SIZE, feature_map, baseline), 50),
            "cass improved": (partial(generate_mask, batch, IMAGE_SIZE, feature_map, improved), 50),
            "list of arrays": (
                partial(generate_mask, arrays, IMAGE_SIZE, feature_map, improved),
                50,
            ),
            "fill with zeros": (partial(out.fill, 0), 200),
        }
        seconds = interleaved(calls, rounds)
        results[name] = {k: v * 1e6 / IMAGES for k, v in seconds.items()}
    return results


def main(
    rounds: Annotated[int, typer.Option(help="Turns that each function gets.")] = 31,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
) -> None:
    """Microseconds an image in one thread, batches of 16 images of 1280x736, patch size 1."""
    results = run(rounds)
    table = Table(title=f"µs an image, one thread, median of {rounds}")
    for column in ("", "feature map", "boxes", *next(iter(results.values())), "ratio", "bound"):
        table.add_column(column, justify="right")
    for name, (feature_map, boxes, bound) in CASES.items():
        row = results[name]
        ratio = row["audited"] / row["cass improved"]
        table.add_row(
            name,
            f"{feature_map[0]}×{feature_map[1]}",
            str(boxes),
            *(f"{value:,.2f}" for value in row.values()),
            f"{ratio:,.0f}×",
            f"≥ {bound}×",
        )
    Console(width=140).print(table)
    if out is not None:
        write(out, "make bench-core", {"microseconds_per_image": results})


if __name__ == "__main__":
    typer.run(main)
