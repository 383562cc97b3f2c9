"""Looks for input that can be used but is probably not what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cass_core.arrays import is_tensor
from cass_core.boxes import BoxBatch
from cass_core.checks.warn import is_due, warn_once, were_shown
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, Sizes

if TYPE_CHECKING:
    import torch

# Normalised boxes reach as far, and a bit beyond.
_ONE = 1.05
# Boxes may well reach beyond their image, by so much of it.
_BEYOND = 1.1
# On smaller images boxes of less than a pixel are none that were normalised.
_LEAST_PIXELS = 32


def check_plausible(
    given: Any, boxes: BoxBatch, sizes: Sizes | torch.Tensor, maps: Sequence[FeatureMap]
) -> None:
    """Warn of boxes, sizes and maps that do not look right; of what was given as these boxes."""
    if not isinstance(sizes, np.ndarray):
        return
    if given is not boxes and is_tensor(boxes.xyxy):
        check_canvas(given, sizes)
    if is_due():
        warn_of_sizes(sizes, maps)
        warn_of_boxes(boxes, sizes, maps)


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


def warn_of_sizes(sizes: Sizes, maps: Sequence[FeatureMap]) -> None:
    """Warns of an image and a feature map whose aspects differ by more than a cell's rounding."""
    if were_shown("aspect"):
        return
    height, width = sizes[:, 0], sizes[:, 1]
    for h, w in maps:
        differ = (height * (w - 1) > width * (h + 1)) | (width * (h - 1) > height * (w + 1))
        if not differ.any():
            continue
        size = tuple(map(int, sizes[int(np.argmax(differ))]))
        warn_once(
            "aspect",
            f"image_size {size} and feature_map {(h, w)} differ in aspect by more than a cell: "
            "both are (height, width), and an image that is padded has the padded size",
        )


def warn_of_boxes(boxes: BoxBatch, sizes: Sizes, maps: Sequence[FeatureMap] = ()) -> None:
    """Warns of boxes that are normalised, or for which the axes or sizes look swapped.

    Boxes in a device's memory are not read.
    """
    xyxy = boxes.xyxy
    if not len(xyxy) or were_shown("normalised", "map", "axes"):
        return
    if is_tensor(xyxy) and xyxy.device.type != "cpu":
        return
    xyxy = np.asarray(xyxy)
    right, low = float(xyxy[:, 2].max()), float(xyxy[:, 3].max())
    height, width = (sizes[0] if len(sizes) == 1 else sizes.max(axis=0)).tolist()
    if 0 < max(right, low) <= _ONE:
        if sizes.min() >= _LEAST_PIXELS and float(xyxy.min()) > -_ONE:
            warn_once(
                "normalised",
                "all boxes lie within [0, 1]: they look normalised, and must be in pixels of "
                "image_size (x times W, y times H)",
            )
    elif right > _BEYOND * width or low > _BEYOND * height:
        if any(2 * height <= h >= low and 2 * width <= w >= right for h, w in maps):
            warn_once(
                "map",
                f"boxes reach to x = {right:g}, y = {low:g}, beyond image_size "
                f"({height:g}, {width:g}) but not beyond feature_map: are the two swapped?",
            )
        elif right <= height and low <= width:
            warn_once(
                "axes",
                f"boxes reach to x = {right:g}, y = {low:g}, beyond image_size "
                f"({height:g}, {width:g}), which is (H, W): is it given as (W, H), or are the "
                "boxes y1, x1, y2, x2?",
            )
