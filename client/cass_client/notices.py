"""Warns, once a process, of what a loss takes for background though it may be none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cass_core.boxes import BoxBatch
from cass_core.checks.warn import warn_once, were_shown
from cass_core.coverage import without_patch
from cass_core.grid import Sizes
from cass_core.inputs import MaskInputs
from cass_core.specs import MaskSpec

_KIND = "without patch"


def warn_unweighted(
    boxes: BoxBatch,
    ignore: BoxBatch | None,
    valid_region: npt.NDArray[np.float32] | None,
    sizes: Sizes,
) -> None:
    """Warns of ignored and padded regions of a batch whose masks have no weights.

    Args:
        boxes: of objects.
        ignore: boxes of what is no single object, or None.
        valid_region: ``[B, 4]``, where the pictures are in the images, or None.
        sizes: ``[B, 2]``, height and width of the images.
    """
    if ignore is not None:
        count, total = ignore.num_boxes, ignore.num_boxes + boxes.num_boxes
        warn_once(
            "crowd",
            f"{count} of {total} objects of a batch are crowds (iscrowd) or ignored, and without "
            "weights their patches are background: return_weights=True has them weigh 0, for "
            "MaskLoss(weights=...), and ignore_crowds=False says that background is meant",
        )
    if valid_region is not None:
        whole = np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], axis=1)
        count = int(np.count_nonzero((valid_region != whole).any(axis=1)))
        warn_once(
            "padding",
            f"{count} of {len(sizes)} images of a batch are padded, and without weights the "
            "padding is background: return_weights=True has it weigh 0, for "
            "MaskLoss(weights=...), and ignore_padding=False says that background is meant",
        )


def warn_without_patch(boxes: Any, image_size: Any, feature_map: Any, spec: MaskSpec) -> None:
    """Warns of boxes that have no patch on a feature map; costs nothing where a cell is a patch."""
    if spec.patch_size == 1 or were_shown(_KIND):
        return
    inputs = MaskInputs.check(boxes, image_size, feature_map, spec, "float32", False)
    flags = without_patch(inputs)
    if spec.level_ranges is not None:  # a box has no part in most levels, which is meant
        flags = [np.logical_and.reduce(flags)]
    lost = [int(np.count_nonzero(of_level)) for of_level in flags]
    if any(lost):
        most = max(range(len(lost)), key=lost.__getitem__)
        h, w = inputs.maps[most]
        _, rows, columns = inputs.shapes()[most]
        reason = f"so that the feature map of {h} x {w} cells has {rows} x {columns} patches"
        if spec.level_ranges is not None:
            reason = "and level_ranges leave each box to some of the feature maps"
        warn_once(
            _KIND,
            f"{lost[most]} of {inputs.boxes.num_boxes} boxes have no patch: patch_size is "
            f"{spec.patch_size}, {reason}; patch_size=1 makes each cell one",
        )
