"""Ray Data: `map_batches` with `MaskBatch`, of which each worker process keeps one.

    python examples/ray_data.py --server localhost:50051

The class is made in its worker and lives as long as it does. On a cluster the server's address
must be one that all nodes reach.
"""

from __future__ import annotations

import logging
from typing import Annotated

import numpy as np
import ray
import typer

from cass_client import MaskSpec
from cass_client.ray import MaskBatch
from cass_core.synthetic import street_boxes

IMAGES, BATCH = 64, 16
IMAGE_SIZE = (736, 1280)


def scenes() -> ray.data.Dataset:
    """Boxes of drawn streets, none to six in an image; put your own set here."""
    rows = [
        {"image_id": i, "boxes": street_boxes(1, i % 7, image_size=IMAGE_SIZE, seed=i)[0]}
        for i in range(IMAGES)
    ]
    return ray.data.from_items(rows)


def main(
    server: Annotated[str, typer.Option(help="HOST:PORT, or local: for each worker.")] = "local:",
) -> None:
    """Add the masks, and print the mean of each image's."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    made = scenes().map_batches(
        MaskBatch,
        fn_constructor_kwargs={
            "target": server,
            "feature_map": (23, 40),
            "spec": MaskSpec(),
            "image_size": IMAGE_SIZE,
        },
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    means = {}
    for batch in made.iter_batches(batch_size=BATCH):
        for image_id, mask in zip(batch["image_id"], batch["mask"], strict=True):
            means[int(image_id)] = float(np.mean(mask))
    for image_id in sorted(means):
        print(f"image {image_id}: mean {means[image_id]:.6f}")
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
