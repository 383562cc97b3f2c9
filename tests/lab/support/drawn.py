"""A COCO data set of drawn street scenes, small enough to train on in a test."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from cass_core.synthetic import LABELS, street_scene

SIZE = (96, 160)


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
