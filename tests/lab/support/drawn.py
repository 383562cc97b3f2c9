"""Data sets of drawn street scenes, small enough to train on in a test, and of boxes alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cass_cli.coco import read_coco
from cass_core.synthetic import LABELS, street_scene
from cass_lab.data.dataset import Dataset, load_datasets

SIZE = (96, 160)


def load(
    train: Path, test: Path, images: Path, size: tuple[int, int], cache: Path, **options: Any
) -> tuple[Dataset, Dataset]:
    """Both sets as the commands load them."""
    files = read_coco(train, categories=True), read_coco(test, categories=True)
    return load_datasets(files, images, size, cache, **options)


def boxes_alone(
    images: Sequence[Sequence[Sequence[float]]],
    size: tuple[int, int],
    labels: Sequence[int] | None = None,
    class_names: tuple[str, ...] = ("a",),
) -> Dataset:
    """The boxes of each image, without pictures."""
    boxes = np.array([box for image in images for box in image], np.float32).reshape(-1, 4)
    offsets = np.cumsum([0, *map(len, images)])
    kinds = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels, np.int64)
    return Dataset(Path("none"), size, boxes, offsets, kinds, class_names, "")


def write_scenes(folder: Path, name: str, seeds: range, boxes: int = 6) -> Path:
    """Pictures of ``SIZE`` into ``folder`` and their annotations; the path of the latter."""
    images, annotations = [], []
    for seed in seeds:
        scene = street_scene(seed, image_size=SIZE, boxes=boxes)
        file_name = f"{seed}.png"
        Image.fromarray(scene.image).save(folder / file_name)
        images.append(
            {"id": f"s{seed}", "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}
        )
        for (x1, y1, x2, y2), label in zip(scene.boxes.tolist(), scene.labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": f"s{seed}",
                    "category_id": 10 + LABELS.index(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    path = folder / f"{name}.json"
    categories = [{"id": 10 + i, "name": label} for i, label in enumerate(LABELS)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path
