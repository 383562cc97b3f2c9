"""Warns, once a process, of boxes without a patch, which are taught as background."""

from __future__ import annotations

from typing import Any

import numpy as np

from cass_core.checks.warn import warn_once, were_shown
from cass_core.coverage import without_patch
from cass_core.inputs import MaskInputs
from cass_core.specs import MaskSpec

_KIND = "without patch"


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
