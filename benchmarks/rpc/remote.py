"""`make bench-remote`: the SDK against a server on this machine, beside `local:`, interleaved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import interleaved, write
from cass_client import BoxBatch, CassClient, LossSpec, MaskSpec
from cass_core.synthetic import street_boxes
from examples.demo import running_server

IMAGES = 16
IMAGE_SIZE = (736, 1280)
SPEC = MaskSpec(patch_size=1)
# Feature map and boxes an image.
CASES = {"stride 32": ((23, 40), 15), "stride 8": ((92, 160), 30)}
REPEATS = 20


def calls_of(
    client: CassClient, feature_map: tuple[int, int], boxes: int
) -> dict[str, Callable[[], Any]]:
    """The calls of a training loop for one batch."""
    batch = BoxBatch.from_list(street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE))
    logits = np.random.default_rng(0).normal(-2, 2, (IMAGES, *feature_map)).astype(np.float32)
    masks = {
        f"masks, {dtype}": partial(
            client.generate_mask, batch, IMAGE_SIZE, feature_map, SPEC, dtype=dtype
        )
        for dtype in ("float32", "float16", "uint8")
    }
    loss = partial(
        client.compute_loss,
        logits,
        boxes=batch,
        image_size=IMAGE_SIZE,
        feature_map=feature_map,
        mask_spec=SPEC,
        loss_spec=LossSpec(),
        return_grad=True,
    )
    return {**masks, "loss and gradient": loss}


def main(
    rounds: Annotated[int, typer.Option(help="Turns that each call gets.")] = 31,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
) -> None:
    """Milliseconds of a call for a batch of 16 images of 1280x736, one caller, patch size 1."""
    console = Console(width=110, highlight=False)
    table = Table(title=f"ms a batch of {IMAGES} images, median of {rounds}")
    for column in ("call", "", "local", "remote", "remote / local"):
        table.add_column(column, justify="right")
    results: dict[str, dict[str, float]] = {}
    with running_server(console) as address, CassClient(address) as remote:
        local = CassClient("local:")
        for case, (feature_map, boxes) in CASES.items():
            here, there = (calls_of(c, feature_map, boxes) for c in (local, remote))
            for name in here:
                seconds = interleaved(
                    {"local": (here[name], REPEATS), "remote": (there[name], REPEATS)}, rounds
                )
                row = {where: value * 1e3 for where, value in seconds.items()}
                results[f"{case}, {name}"] = row
                table.add_row(
                    name,
                    case,
                    f"{row['local']:.3f}",
                    f"{row['remote']:.2f}",
                    f"{row['remote'] / row['local']:.0f}",
                )
    console.print(table)
    if out is not None:
        write(out, "make bench-remote", {"milliseconds_per_batch": results})


if __name__ == "__main__":
    typer.run(main)
