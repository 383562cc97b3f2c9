"""A plain NumPy loader without torch: masks come over one stream, requested ahead.

    python examples/numpy_loader.py --server localhost:50051

While the caller works with a batch, the requests of the next four are on their way. Images are
drawn no sooner than their batch is given out, so that only boxes are kept ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import tee
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from cass_client import CassClient, MaskRequest, MaskSpec
from cass_core.synthetic import street_boxes

BATCHES, BATCH, BOXES = 8, 16, 15
IMAGE_SIZE = (736, 1280)
FEATURE_MAPS = [(92, 160), (46, 80), (23, 40)]  # strides 8, 16 and 32

Boxes = list[npt.NDArray[np.float32]]


def boxes_of_batches() -> Iterator[Boxes]:
    """Boxes of drawn streets, batch by batch; put your own annotations here."""
    for seed in range(BATCHES):
        yield street_boxes(BATCH, BOXES, image_size=IMAGE_SIZE, seed=seed)


def batches(client: CassClient) -> Iterator[tuple[Boxes, list[Any]]]:
    """The boxes of each batch, and its masks at each stride, values in [0, 1]."""
    spec = MaskSpec()
    sent, kept = tee(boxes_of_batches())
    requests = (MaskRequest(boxes, IMAGE_SIZE, FEATURE_MAPS, spec) for boxes in sent)
    yield from zip(kept, client.stream_masks(requests, in_flight=4), strict=True)


def main(
    server: Annotated[str, typer.Option(help="HOST:PORT, or local: for this process.")] = "local:",
) -> None:
    """Print the means of each batch's masks."""
    with CassClient(server) as client:
        for number, (boxes, masks) in enumerate(batches(client)):
            means = ", ".join(f"{mask.mean():.6f}" for mask in masks)
            print(f"batch {number}: {len(boxes)} images, masks' means {means}")


if __name__ == "__main__":
    typer.run(main)
