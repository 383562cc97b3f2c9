"""Counts boxes without a patch in one compiled pass, fast enough for each request of a server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from cass_core.arrays import Array, read_only, to_host
from cass_core.cpu.jit import brief, inline
from cass_core.inputs import MaskInputs


def counter(inputs: MaskInputs) -> Callable[[Array, Array], int]:
    """A function of boxes ``[M, 4]`` and offsets ``[B + 1]``, for inputs that differ in these."""
    sizes = read_only(np.array(to_host(inputs.sizes)[0], np.float64))
    maps = read_only(np.array(inputs.maps, np.int64))
    spec = inputs.spec
    ranges = read_only(np.array([spec.range_of(i) for i in range(len(maps))]).reshape(-1, 2))
    return partial(count_without_patch, sizes, maps, ranges, spec.patch_size, float(spec.min_size))


@brief
def count_without_patch(
    sizes: Any,
    maps: Any,
    ranges: Any,
    patch_size: int,
    min_size: float,
    xyxy: Any,
    offsets: Any,
) -> int:
    """Boxes that hold no patch centre of any feature map; `cass_core.coverage` says which.

    Args:
        sizes: ``[1, 2]`` or ``[B, 2]`` float64, (H, W) of the images in pixels.
        maps: ``[L, 2]`` int64, (h, w) of the feature maps in cells.
        ranges: ``[L, 2]`` float64, of the longer sides of the boxes that take part in a level.
        patch_size: as in `MaskSpec`.
        min_size: likewise.
        xyxy: ``[M, 4]`` float32, checked.
        offsets: ``[B + 1]`` int64, of each image's first box.
    """
    holds = np.zeros(xyxy.shape[0], np.bool_)
    for level in range(maps.shape[0]):
        h, w = float(maps[level, 0]), float(maps[level, 1])
        over, longest = ranges[level, 0], ranges[level, 1]
        patch_y, patch_x = min(float(patch_size), h), min(float(patch_size), w)
        for image in range(offsets.shape[0] - 1):
            size = sizes[image if sizes.shape[0] > 1 else 0]
            ratio_y, ratio_x = h / size[0], w / size[1]
            # Without a branch, which a processor would often guess wrong.
            for i in range(offsets[image], offsets[image + 1]):
                along_y = _holds_centre(xyxy[i, 1], xyxy[i, 3], ratio_y, h, patch_y, min_size)
                along_x = _holds_centre(xyxy[i, 0], xyxy[i, 2], ratio_x, w, patch_x, min_size)
                longer = max(
                    np.float64(xyxy[i, 2]) - xyxy[i, 0], np.float64(xyxy[i, 3]) - xyxy[i, 1]
                )
                holds[i] |= along_y & along_x & (longer > over) & (longer <= longest)
    count: int = holds.shape[0] - holds.sum()
    return count


@inline
def _holds_centre(
    low: float, high: float, cells_per_pixel: float, cells: float, patch: float, min_size: float
) -> bool:
    """`cass_core.coverage.without_patch` for one box: the same operations in the same order."""
    low, high = float(low), float(high)
    is_short = (high - low) * cells_per_pixel < min_size
    low, high = low * cells_per_pixel, high * cells_per_pixel
    middle = 0.5 * (low + high)
    low = middle - 0.5 * min_size if is_short else low
    high = middle + 0.5 * min_size if is_short else high
    centre = (max(np.floor(low / patch), 0.0) + 0.5) * patch
    centre += patch if centre < low else 0.0
    is_held: bool = centre <= min(high, cells)
    return is_held
