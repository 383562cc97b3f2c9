"""How much work a mask is: what its computation takes, before any of it is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cass_core.arrays import to_host
from cass_core.grid import patch_grid
from cass_core.inputs import MaskInputs

# A row or a column that a box reaches has an exponential, which takes as long as so many patches.
_LINE = 8


def most_work(inputs: MaskInputs) -> int:
    """What a box is that reaches all patches of all feature maps; see `work`.

    Example:
        >>> from cass_core import MaskSpec
        >>> inputs = MaskInputs.check([[]], (64, 64), [(8, 8), (2, 4)], MaskSpec(), "uint8", False)
        >>> most_work(inputs)  # 64 + 8 * 16, and 8 + 8 * 6
        248
    """
    grids = [patch_grid(feature_map, inputs.spec.patch_size) for feature_map in inputs.maps]
    return sum(rows * columns + _LINE * (rows + columns) for rows, columns in grids)


def work(inputs: MaskInputs) -> npt.NDArray[np.float64]:
    """The work of each box ``[M]``: the patches that it and its context reach, at most.

    Each row and each column of these counts as 8 more. The feature maps are added up, but for those
    whose level takes other boxes. A unit is some nanosecond of a core.

    Example:
        >>> from cass_core import MaskSpec
        >>> boxes = [[[8, 8, 24, 24]], [[-99, -99, 99, 99]]]
        >>> inputs = MaskInputs.check(boxes, (64, 64), (8, 8), MaskSpec(), "uint8", False)
        >>> work(inputs)  # 4 by 4 patches, and all
        array([ 80., 192.])
    """
    x1, y1, x2, y2 = np.ascontiguousarray(to_host(inputs.boxes.xyxy)[0].T, np.float64)
    sizes = to_host(inputs.sizes)[0]
    if len(sizes) > 1:
        sizes = np.repeat(sizes, inputs.boxes.counts, axis=0)
    spec = inputs.spec
    total = np.zeros(len(x1))
    longer = np.maximum(x2 - x1, y2 - y1)
    for level, (h, w) in enumerate(inputs.maps):
        over, longest = spec.range_of(level)
        patch_y, patch_x = min(spec.patch_size, h), min(spec.patch_size, w)
        options = spec.min_size, spec.expansion_ratio
        rows = _reach(y1, y2, h / sizes[:, 0], h, patch_y, *options)
        columns = _reach(x1, x2, w / sizes[:, 1], w, patch_x, *options)
        of_level = (longer > over) & (longer <= longest)
        total += np.where(of_level, rows * columns + _LINE * (rows + columns), 0.0)
    return total


def ignored_inputs(inputs: MaskInputs) -> MaskInputs | None:
    """Inputs whose work is that of the ignored boxes, if there are any: each on every level."""
    weighting = inputs.weighting
    if weighting is None or weighting.ignore is None or not weighting.ignore.num_boxes:
        return None
    spec = inputs.spec.replace(level_ranges=None, expansion_ratio=0.0)
    return replace(inputs, boxes=weighting.ignore, spec=spec, weighting=None)


def _reach(
    low: Any,
    high: Any,
    cells_per_pixel: Any,
    cells: int,
    patch: int,
    min_size: float,
    expansion: float,
) -> Any:
    """Patches along one axis that the sides ``[M]`` of boxes, in its pixels, reach at most."""
    low, high = low * cells_per_pixel, high * cells_per_pixel
    half = np.maximum(high - low, min_size) * (0.5 + expansion)
    middle = 0.5 * (low + high)
    begin = np.clip((middle - half) / patch, 0.0, cells / patch)
    end = np.clip((middle + half) / patch, 0.0, cells / patch)
    return np.minimum(np.floor(end - begin) + 1.0, -(-cells // patch))
