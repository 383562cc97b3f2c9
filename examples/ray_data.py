"""Ray Data: `map_batches` with a class, so that each worker process keeps one client.

    python examples/ray_data.py --server localhost:50051

The class is made in its worker and lives as long as it does. On a cluster the server's address
must be one that all nodes reach.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import numpy as np
import ray
import typer

from cass_client import CassClient, MaskSpec
from cass_core.scenes import street_boxes

IMAGES, BATCH = 64, 16
IMAGE_SIZE, FEATURE_MAP = (736, 1280), (23, 40)

Batch = dict[str, Any]


class AddMasks:
    """Adds the masks of a batch, by one request.

    Args:
        server: whom to ask.
    """

    def __init__(self, server: str) -> None:
        self.client = CassClient(server)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with masks, ``[23, 40]`` float32 for each image."""
        masks = self.client.generate_mask(
            list(batch["boxes"]), IMAGE_SIZE, FEATURE_MAP, MaskSpec(patch_size=1)
        )
        return {**batch, "masks": masks}


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
        AddMasks,
        fn_constructor_args=[server],
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    means = {}
    for batch in made.iter_batches(batch_size=BATCH):
        for image_id, mask in zip(batch["image_id"], batch["masks"], strict=True):
            means[int(image_id)] = float(np.mean(mask))
    for image_id in sorted(means):
        print(f"image {image_id}: mean {means[image_id]:.6f}")
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
