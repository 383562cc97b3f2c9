"""Masks of real boxes: against the reference, and between the two ways of making them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import MaskSpec
from tests.core.support import reference
from tests.core.support.paths import compiled, interpreted

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


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spec", [MaskSpec.baseline(), MaskSpec.improved()])
def test_compiled_loops_and_kernels_agree(shared: Path, name: str, spec: MaskSpec) -> None:
    images = load(shared / "data" / name, 300)[::10]  # the interpreter is slow
    sizes, boxes = [size for size, _ in images], [xyxy for _, xyxy in images]
    ours, owner = compiled(boxes, sizes, (48, 80), spec, return_owner=True)
    theirs, other = interpreted(boxes, sizes, (48, 80), spec, return_owner=True)
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


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in FILES[:2]), *FILES[2:]]
)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "options",
    [
        reference.IMPROVED,
        pytest.param(reference.BASELINE, marks=pytest.mark.slow),
        pytest.param(
            reference.IMPROVED | {"patch_size": 3, "decay_type": "linear", "merge": "clipped_sum"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_against_the_reference(shared: Path, name: str, options: dict[str, Any]) -> None:
    """Every twelfth of the first 300 images, patch by patch."""
    images = load(shared / "data" / name, 300)[::12]
    sizes, boxes = [size for size, _ in images], [xyxy for _, xyxy in images]
    expected = reference.masks(boxes, sizes, (24, 40), options)
    assert expected.safe.mean() > 0.9
    for make, count in ((compiled, len(images)), (interpreted, 10)):  # the interpreter is slow
        arguments = (boxes[:count], sizes[:count], (24, 40), MaskSpec(**options))
        mask, safe = make(*arguments), expected.safe[:count]
        np.testing.assert_allclose(mask[safe], expected.mask[:count][safe], rtol=0, atol=1e-5)
        if options["merge"] == "max":
            _, owner = make(*arguments, return_owner=True)
            clear = expected.owner_safe[:count]
            np.testing.assert_array_equal(owner[clear], expected.owner[:count][clear])


@pytest.mark.parametrize("name", FILES)
def test_small_boxes_reach_the_centres_around_them(shared: Path, name: str) -> None:
    """The improved preset gives a value to each centre in the dilated box of a small box."""
    images = load(shared / "data" / name, 300)
    sizes, boxes = [size for size, _ in images], [xyxy for _, xyxy in images]
    masks = compiled(boxes, sizes, (24, 40), MaskSpec(patch_size=4))
    small = reached = 0
    for mask, (height, width), xyxy in zip(masks, sizes, boxes, strict=True):
        scale = np.array([40 / width, 24 / height] * 2)
        for x1, y1, x2, y2 in xyxy * scale:
            if (x2 - x1) * (y2 - y1) >= 16:
                continue
            small += 1
            columns, rows = centres(x1, x2, 40), centres(y1, y2, 24)
            reached += bool(columns and rows)
            assert (mask[np.ix_(rows, columns)] > 0).all()
    # Neither none nor all, or nothing would be told.
    assert 0 < reached < small


def centres(low: float, high: float, cells: int) -> list[int]:
    """Patches of 4 cells with their centre in the dilated box, a hair from its edge.

    A side of at least 1 cell grows by 0.3 of it at both ends. The distance there is at most 0.3
    sides and is divided by no less, so it is below 1 and the value above 0.
    """
    centre, side = (low + high) / 2, max(high - low, 1)
    reach = 0.8 * side - 1e-3
    first, last = max(centre - reach, 0), min(centre + reach, cells - 1e-3)
    return list(range(math.ceil(first / 4 - 0.5), math.floor(last / 4 - 0.5) + 1))
