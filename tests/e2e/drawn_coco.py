"""A COCO file of drawn scenes with its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from cass_core.synthetic import street_scene


def write_coco(file: Path, folder: Path, numbers: Iterable[int]) -> None:
    """Write scenes of 96×160 with five boxes each, called by their numbers."""
    folder.mkdir()
    coco: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    coco["categories"].append({"id": 1, "name": "thing"})
    for number in numbers:
        scene = street_scene(number, image_size=(96, 160), boxes=5)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
        image = {"id": number, "file_name": f"{number}.png", "height": 96, "width": 160}
        coco["images"].append(image)
        for x1, y1, x2, y2 in scene.boxes.tolist():
            box = {"id": len(coco["annotations"]), "image_id": number, "category_id": 1}
            coco["annotations"].append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    file.write_text(json.dumps(coco), encoding="utf-8")
