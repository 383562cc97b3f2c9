"""Which boxes have no patch: no patch has its centre in them, so none of the mask is 1 for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cass_core.arrays import read_only, to_host
from cass_core.boxes import BoxBatch
from cass_core.inputs import MaskInputs
from cass_core.specs import MaskSpec

Flags = npt.NDArray[np.bool_]


def boxes_without_patch(
    boxes: BoxBatch | Sequence[Any],
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
) -> Any:
    """Which boxes hold no patch centre of the feature map, so that a mask has no 1 for them.

    With ``patch_size=1`` and the default ``min_size`` these are boxes outside their image, or with
    less than half a cell of them inside. With larger patches they are most of the small boxes.

    Args:
        boxes: as for `cass_core.generate_mask`; the values of boxes in CUDA memory are read, which
            waits for the device.
        image_size: (H, W) in pixels, one for all images or one for each.
        feature_map: (h, w) in cells, or a list of them for several levels.
        spec: ``patch_size``, ``min_size`` and ``level_ranges`` matter; a box without a part in a
            level holds none of its patches.

    Returns:
        ``[M]`` bool, for the boxes of all images one after the other (`BoxBatch.xyxy`); for a list
        of feature maps a list of these.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> boxes = [[[8, 8, 24, 24], [0, 0, 9, 9]]]
        >>> boxes_without_patch(boxes, (64, 64), (8, 8), MaskSpec(patch_size=4)).tolist()
        [False, True]
    """
    inputs = MaskInputs.check(boxes, image_size, feature_map, spec, "float32", False)
    flags = without_patch(inputs)
    return flags[0] if inputs.single else flags


def without_patch(inputs: MaskInputs) -> list[Flags]:
    """As `boxes_without_patch`, ``[M]`` per feature map; loads no kernels."""
    xyxy, sizes = read_only(to_host(inputs.boxes.xyxy)[0]), to_host(inputs.sizes)[0]
    if len(sizes) > 1:
        sizes = np.repeat(sizes, inputs.boxes.counts, axis=0)
    spec, flags = inputs.spec, []
    longer = (xyxy[:, 2:].astype(np.float64) - xyxy[:, :2]).max(axis=1, initial=0)
    for level, (h, w) in enumerate(inputs.maps):
        patch_y, patch_x = min(spec.patch_size, h), min(spec.patch_size, w)
        along_y = _holds_centre(xyxy[:, 1], xyxy[:, 3], h / sizes[:, 0], h, patch_y, spec.min_size)
        along_x = _holds_centre(xyxy[:, 0], xyxy[:, 2], w / sizes[:, 1], w, patch_x, spec.min_size)
        over, longest = spec.range_of(level)
        flags.append(~(along_y & along_x & (longer > over) & (longer <= longest)))
    return flags


def _holds_centre(
    low: Any, high: Any, cells_per_pixel: Any, cells: int, patch: int, min_size: float
) -> Flags:
    """Whether the sides ``[M]`` of boxes, in pixels of one axis, hold the centre of a patch.

    The operations are those of the masks, in their order, so that both decide alike for a centre
    that lies on an edge.
    """
    low, high = low.astype(np.float64), high.astype(np.float64)
    short = (high - low) * cells_per_pixel < min_size
    low, high = low * cells_per_pixel, high * cells_per_pixel
    middle = 0.5 * (low + high)
    low = np.where(short, middle - 0.5 * min_size, low)
    high = np.where(short, middle + 0.5 * min_size, high)
    # The patch in which the side begins, or the one behind it.
    centre = (np.maximum(np.floor(low / patch), 0.0) + 0.5) * patch
    centre = np.where(centre < low, centre + patch, centre)
    held: Flags = centre <= np.minimum(high, cells)
    return held
