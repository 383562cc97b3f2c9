"""Boxes that say what their numbers mean, as torchvision's ``tv_tensors.BoundingBoxes`` do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cass_core.errors import InvalidRequest
from cass_core.grid import Sizes
from cass_core.warn import warn_once

if TYPE_CHECKING:
    import torch


def corners(boxes: torch.Tensor, field: str) -> torch.Tensor:
    """A tensor's boxes ``[..., 4]`` as x1, y1, x2, y2; as they are where it names no format.

    Raises:
        InvalidRequest: it names a format of rotated boxes, or an unknown one.
    """
    import torch

    # Told by the attribute and not by the class: who has such boxes need not have torchvision.
    name = _format_of(boxes)
    plain = boxes.detach().as_subclass(torch.Tensor)
    if name in ("", "XYXY"):
        return plain
    if name not in ("XYWH", "CXCYWH"):
        raise InvalidRequest(field, f"must be of the format XYXY, XYWH or CXCYWH, got {name}")
    if plain.ndim == 0 or plain.shape[-1] != 4:
        return plain  # refused by its shape
    start, size = plain[..., :2].double(), plain[..., 2:].double()
    if name == "CXCYWH":
        start = start - size / 2
    return torch.cat([start, start + size], dim=-1)


def check_canvas(boxes: Any, sizes: Sizes) -> None:
    """Rejects boxes on a canvas that the image's size contradicts.

    A smaller canvas is fine, since images are padded to the size of a batch; but there is a warning
    for one of the same aspect, as of boxes that were resized.

    Args:
        boxes: as of `BoxBatch.from_list`.
        sizes: ``[1 or B, 2]``.

    Raises:
        InvalidRequest: a canvas is higher or wider than its image; named ``image_size`` or
            ``image_size[i]``.
    """
    for i, entry in enumerate(boxes):
        canvas = getattr(entry, "canvas_size", None)
        if canvas is None:
            continue
        row = 0 if len(sizes) == 1 else i
        size = tuple(map(int, sizes[row]))
        if np.any(np.asarray(canvas) > sizes[row]):
            field = "image_size" if len(sizes) == 1 else f"image_size[{i}]"
            raise InvalidRequest(
                field, f"is {size}, the canvas_size of boxes[{i}] is {tuple(canvas)} (H, W)"
            )
        if tuple(canvas) != size and abs(canvas[0] * size[1] - canvas[1] * size[0]) < max(size):
            warn_once(
                "canvas",
                f"boxes[{i}] have the canvas_size {tuple(canvas)}, image_size is {size}, the same "
                "at another scale: is it the size before the image was resized?",
            )


def _format_of(boxes: torch.Tensor) -> str:
    found = getattr(boxes, "format", None)
    return str(getattr(found, "name", found) or "").upper()
