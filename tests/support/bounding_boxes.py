"""Boxes that say their format and canvas, as torchvision's do, which need not be installed."""

from __future__ import annotations

import enum
from typing import Any

import torch

Format = enum.Enum("Format", ["XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR"])


class BoundingBoxes(torch.Tensor):
    """As ``torchvision.tv_tensors.BoundingBoxes``."""

    format: Format
    canvas_size: tuple[int, int]


def like_torchvision(
    values: Any, form: str, canvas_size: tuple[int, int] = (736, 1280)
) -> BoundingBoxes:
    """Boxes of these values, ``[..., 4]``."""
    boxes = torch.as_tensor(values).as_subclass(BoundingBoxes)
    boxes.format, boxes.canvas_size = Format[form], canvas_size
    return boxes
