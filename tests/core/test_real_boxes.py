"""Masks of real boxes: against the reference, and between the two ways of making them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import MaskSpec
from tests.core.paths import compiled, operations

FILES = ["carla/test.json", "cones/test.json", "ampelpilot/annotations.json"]
Images = list[tuple[tuple[int, int], np.ndarray]]


def load(path: Path, limit: int) -> Images:
    """Size and boxes of the first images that have boxes, read with json alone."""
    raw = json.loads(path.read_text())
    boxes: dict[Any, list[list[float]]] = {}
    for a in raw["annotations"]:
        x, y, w, h = a["bbox"]
        boxes.setdefault(a["image_id"], []).append([x, y, x + w, y + h])
    return [
        ((image["height"], image["width"]), np.array(boxes[image["id"]], np.float32))
        for image in raw["images"]
        if image["id"] in boxes
    ][:limit]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spec", [MaskSpec.baseline(), MaskSpec.improved()])
def test_compiled_loops_and_operations_agree(shared: Path, name: str, spec: MaskSpec) -> None:
    images = load(shared / "data" / name, 300)
    sizes, boxes = [size for size, _ in images], [xyxy for _, xyxy in images]
    ours, owner = compiled(boxes, sizes, (48, 80), spec, return_owner=True)
    theirs, other = operations(boxes, sizes, (48, 80), spec, return_owner=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # Two boxes may give one value to a rounding; else the owner is the same.
    assert (owner == other).mean() > 0.999


@pytest.mark.parametrize("name", FILES)
def test_every_box_is_seen(shared: Path, name: str) -> None:
    """Whatever a box's size, the patch whose centre it holds is 1, and a near one is not 0.

    With a map at stride 4, patches of one cell and a least side of 1 cell, the core of every box
    whose centre lies in the image holds the centre of a patch: a closed range of length 1 does.
    """
    for (h, w), xyxy in load(shared / "data" / name, 100):
        cells = (h // 4, w // 4)
        for box in xyxy:
            mask = compiled([box[None]], (h, w), cells, MaskSpec(patch_size=1))[0]
            x = min(max((box[0] + box[2]) / 2 * cells[1] / w, 0.5), cells[1] - 0.5)
            y = min(max((box[1] + box[3]) / 2 * cells[0] / h, 0.5), cells[0] - 0.5)
            assert mask.max() == 1
            assert mask[int(y), int(x)] > 0
