"""Looks for input that can be used but is probably not what was meant."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from cass_core.arrays import Array, is_tensor, read_only
from cass_core.boxes import BoxBatch
from cass_core.grid import FeatureMap, Sizes
from cass_core.warn import warn_once, were_shown

# Boxes may well reach beyond their image, by so much of it.
_BEYOND = 1.1
# On smaller images boxes of less than a pixel are none that were normalised.
_LEAST_PIXELS = 32


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
    right, low = _reach(np.asarray(xyxy))
    height, width = (sizes[0] if len(sizes) == 1 else sizes.max(axis=0)).tolist()
    if 0 < max(right, low) <= 1:
        if sizes.min() >= _LEAST_PIXELS:
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


def _reach(xyxy: Array) -> tuple[float, float]:
    """The largest x2 and the largest y2."""
    # Compiled where the kernels are in use anyway: loading them takes a second.
    reach = getattr(sys.modules.get("cass_core.cpu.boxes"), "reach", None)
    if reach is not None:
        found: tuple[float, float] = reach(read_only(xyxy))
        return found
    return float(xyxy[:, 2].max()), float(xyxy[:, 3].max())
