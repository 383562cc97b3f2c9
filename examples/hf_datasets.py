"""Hugging Face `datasets`: masks stored once by `map`, or made anew in each epoch by a transform.

    python examples/hf_datasets.py --server localhost:50051

`map` is for boxes that stay as they are: its processes ask for a batch at a time, and the masks
lie in the set's Arrow files, as uint8 in a quarter of float32's room. Where boxes are augmented,
`with_transform` makes the masks when a batch is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from datasets import Array2D, Dataset, Features

from cass_client import CassClient, MaskSpec
from cass_core.synthetic import street_boxes

IMAGES, BATCH = 64, 16
IMAGE_SIZE, FEATURE_MAP = (736, 1280), (23, 40)

Batch = dict[str, Any]


def scenes() -> Dataset:
    """Boxes of drawn streets, none to six in an image; put your own set here."""
    boxes = [street_boxes(1, i % 7, image_size=IMAGE_SIZE, seed=i)[0] for i in range(IMAGES)]
    return Dataset.from_dict({"image_id": list(range(IMAGES)), "boxes": boxes})


@dataclass(frozen=True)
class AddMasks:
    """Adds the masks of a batch, by one request.

    Attributes:
        client: whom to ask.
        mirrored: whether images are turned left to right before.
    """

    client: CassClient
    mirrored: bool = False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with masks, ``[23, 40]`` uint8 for each image."""
        boxes = [np.array(xyxy, np.float32).reshape(-1, 4) for xyxy in batch["boxes"]]
        if self.mirrored:
            for xyxy in boxes:
                xyxy[:, [2, 0]] = IMAGE_SIZE[1] - xyxy[:, [0, 2]]
        masks = self.client.generate_mask(boxes, IMAGE_SIZE, FEATURE_MAP, MaskSpec(), dtype="uint8")
        return {**batch, "boxes": boxes, "masks": masks}


def main(
    server: Annotated[str, typer.Option(help="HOST:PORT, or local: for this process.")] = "local:",
) -> None:
    """Add masks in both ways, and print the mean of each image's."""
    client = CassClient(server)  # pickles; each process opens a connection of its own
    plain = scenes()
    stored = plain.map(
        AddMasks(client),
        batched=True,
        batch_size=BATCH,
        num_proc=2,
        features=Features(plain.features, masks=Array2D(FEATURE_MAP, "uint8")),
    )
    # Without the dtype they would be read as int64, eight times the room.
    stored.set_format("numpy", ["masks"], output_all_columns=True, dtype=np.uint8)
    mirrored = plain.with_transform(AddMasks(client, mirrored=True))
    for name, dataset in (("stored", stored), ("mirrored", mirrored)):
        for batch in dataset.iter(BATCH):
            for image_id, mask in zip(batch["image_id"], batch["masks"], strict=True):
                print(f"{name}, image {image_id}: {mask.dtype}, mean {mask.mean():.6f}")


if __name__ == "__main__":
    typer.run(main)
