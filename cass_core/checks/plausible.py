"""Looks for input that can be used but is probably not what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cass_core.arrays import Array, is_tensor
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
# Nobody makes a map so much finer than its image.
_FINER = 8
# Of a batch, so many boxes reach beyond their images where the axes are swapped.
_SHARE = 0.25
# On smaller images boxes of less than a pixel are none that were normalised.
_LEAST_PIXELS = 32


def check_plausible(
    boxes: BoxBatch, sizes: Sizes | torch.Tensor, maps: Sequence[FeatureMap]
) -> None:
    """Warns of boxes, sizes and maps that do not look right."""
    if not isinstance(sizes, np.ndarray):
        return
    check_canvas(boxes, sizes)
    if is_due():
        warn_of_sizes(sizes, maps)
        warn_of_boxes(boxes, sizes, maps)


def check_canvas(boxes: BoxBatch, sizes: Sizes) -> None:
    """Rejects boxes on a canvas that the image's size contradicts.

    A smaller canvas is fine, since images are padded to the size of a batch; but there is a warning
    for one of the same aspect, as of boxes that were resized.

    Args:
        boxes: with the canvases that they came with.
        sizes: ``[1 or B, 2]``.

    Raises:
        InvalidRequest: a canvas is higher or wider than its image; named ``image_size`` or
            ``image_size[i]``.
    """
    if not boxes.canvases:
        return
    heights_widths = sizes.astype(np.int64).tolist()
    for i, canvas in boxes.canvases:
        height, width = heights_widths[0 if len(sizes) == 1 else i]
        if canvas[0] > height or canvas[1] > width:
            field = "image_size" if len(sizes) == 1 else f"image_size[{i}]"
            raise InvalidRequest(
                field,
                f"is {(height, width)}, the canvas_size of boxes[{i}] is {canvas} (H, W)",
            )
        of_other_scale = abs(canvas[0] * width - canvas[1] * height) < max(height, width)
        if of_other_scale and canvas != (height, width):
            warn_once(
                "canvas",
                f"boxes[{i}] have the canvas_size {canvas}, image_size is {(height, width)}, the "
                "same at another scale: is it the size before the image was resized?",
            )


def warn_of_sizes(sizes: Sizes, maps: Sequence[FeatureMap]) -> None:
    """Warns of a feature map far finer than an image, or of another aspect by more than a cell."""
    if were_shown("aspect", "map"):
        return
    height, width = sizes[:, 0], sizes[:, 1]
    for h, w in maps:
        finer = (_FINER * height <= h) & (_FINER * width <= w)
        if finer.any():
            size = tuple(map(int, sizes[int(np.argmax(finer))]))
            warn_once(
                "map",
                f"image_size {size} is in pixels and feature_map {(h, w)} in cells, of which there "
                "are many to a pixel: are the two swapped?",
            )
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
    _warn_of_normalised(xyxy, boxes, sizes)
    if not _warn_of_map(xyxy, sizes, maps):
        _warn_of_axes(xyxy, boxes, sizes)


def _warn_of_normalised(xyxy: Array, boxes: BoxBatch, sizes: Sizes) -> None:
    """Warns of each image for itself: a batch may come from several sources."""
    images = np.flatnonzero(boxes.counts)
    starts = boxes.offsets[images]
    largest = np.maximum.reduceat(xyxy[:, 2:].max(axis=1), starts)
    least = np.minimum.reduceat(xyxy[:, :2].min(axis=1), starts)
    # A box from (0, 0) to (1, 1) is as likely one of a pixel.
    fractions = np.logical_or.reduceat((xyxy % 1 != 0).any(axis=1), starts)
    sides = sizes.min(axis=1)
    sides = sides if len(sides) == 1 else sides[images]
    normalised = (largest > 0) & (largest <= _ONE) & (least > -_ONE) & fractions
    found = images[normalised & (sides >= _LEAST_PIXELS)]
    if not len(found):
        return
    others = f" and {len(found) - 1} more images" if len(found) > 1 else ""
    which = "" if len(found) == len(images) else f" of boxes[{found[0]}]{others}"
    warn_once(
        "normalised",
        f"all boxes{which} lie within [0, 1]: they look normalised, and must be in pixels of "
        "image_size (x times W, y times H)",
    )


def _warn_of_map(xyxy: Array, sizes: Sizes, maps: Sequence[FeatureMap]) -> bool:
    right, low = xyxy[:, 2:].max(axis=0).tolist()
    height, width = sizes.max(axis=0).tolist()
    if right <= _BEYOND * width and low <= _BEYOND * height:
        return False
    if not any(2 * height <= h >= low and 2 * width <= w >= right for h, w in maps):
        return False
    warn_once(
        "map",
        f"boxes reach to x = {right:g}, y = {low:g}, beyond image_size ({height:g}, {width:g}) but "
        "not beyond feature_map: are the two swapped?",
    )
    return True


def _warn_of_axes(xyxy: Array, boxes: BoxBatch, sizes: Sizes) -> None:
    """Warns if all boxes fit the turned images only; a few may well reach beyond a crop."""
    own = sizes if len(sizes) == 1 else np.repeat(sizes, boxes.counts, axis=0)
    ends = xyxy[:, 2:]
    beyond = (ends > _BEYOND * own[:, ::-1]).any(axis=1)
    number = int(np.count_nonzero(beyond))
    if number < 2 or number < _SHARE * len(xyxy) or (ends > own).any():
        return
    box = int(np.argmax(beyond))
    right, low = ends[box].tolist()
    height, width = own[0 if len(own) == 1 else box].tolist()
    warn_once(
        "axes",
        f"boxes reach to x = {right:g}, y = {low:g}, beyond image_size "
        f"({height:g}, {width:g}), which is (H, W): is it given as (W, H), or are the "
        "boxes y1, x1, y2, x2?",
    )
