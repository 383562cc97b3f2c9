"""Drawn scenes for the stacks, and masks by the slow reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cass_core.synthetic import LABELS, Scene, street_scene
from tests.core.support import reference

SIZE = (64, 96)
STRIDES = (8, 16, 32)


def scene(index: int, size: tuple[int, int] = SIZE) -> Scene:
    """A street with four objects."""
    return street_scene(index, image_size=size, boxes=4)


def sample(index: int, size: tuple[int, int] = SIZE) -> tuple[Tensor, dict[str, Tensor]]:
    """As torchvision's detection sets give it."""
    drawn = scene(index, size)
    image = torch.from_numpy(drawn.image).permute(2, 0, 1)
    labels = torch.tensor([LABELS.index(label) for label in drawn.labels])
    return image, {"boxes": torch.from_numpy(drawn.boxes), "labels": labels}


def annotations(index: int, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """As COCO has them."""
    drawn = scene(index, size)
    return [
        {
            "image_id": index,
            "category_id": LABELS.index(label),
            "iscrowd": 0,
            "area": float((x2 - x1) * (y2 - y1)),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        }
        for (x1, y1, x2, y2), label in zip(drawn.boxes.tolist(), drawn.labels, strict=True)
    ]


def from_shares(boxes: Any, size: Sequence[float]) -> list[list[float]]:
    """Corners in pixels of normalised cxcywh boxes, one by one."""
    height, width = size
    return [
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        for x, y, w, h in np.asarray(boxes, np.float64).reshape(-1, 4).tolist()
    ]


def check_masks(
    masks: Any, corners: Sequence[Any], size: Sequence[int], strides: Any = STRIDES
) -> None:
    """The masks are the reference's of these boxes, where float32 must agree."""
    several = isinstance(strides, tuple)
    levels = masks if several else [masks]
    assert len(levels) == (len(strides) if several else 1)
    height, width = map(int, size)
    boxes = [np.asarray(b, np.float64).reshape(-1, 4).tolist() for b in corners]
    assert any(boxes)
    for level, stride in zip(levels, strides if several else [strides], strict=True):
        cells = (-(-height // stride), -(-width // stride))
        answer = reference.masks(boxes, [(height, width)] * len(boxes), cells, {})
        assert tuple(level.shape) == answer.mask.shape
        found = np.asarray(level, np.float64)
        np.testing.assert_allclose(found[answer.safe], answer.mask[answer.safe], atol=1e-3)
        assert found.max() == 1


def check_weights(
    weights: Any,
    corners: Sequence[Any],
    size: Sequence[int],
    strides: Any = STRIDES,
    ignore: Sequence[Any] | None = None,
    valid_region: Sequence[Any] | None = None,
) -> None:
    """The weights are the reference's of these boxes and regions; some are 0."""
    several = isinstance(strides, tuple)
    levels = weights if several else [weights]
    height, width = map(int, size)
    maps = [(-(-height // s), -(-width // s)) for s in (strides if several else [strides])]
    boxes = [np.asarray(b, np.float64).reshape(-1, 4).tolist() for b in corners]
    sizes = [(height, width)] * len(boxes)
    answer = reference.weights(boxes, sizes, maps, {}, ignore=ignore, valid_region=valid_region)
    for level, expected, safe in zip(levels, answer.values, answer.safe, strict=True):
        assert tuple(level.shape) == expected.shape
        np.testing.assert_array_equal(np.asarray(level)[safe], expected[safe])
    assert not np.asarray(levels[0]).all()
