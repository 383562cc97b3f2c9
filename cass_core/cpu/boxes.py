"""Checks boxes in one compiled pass, where NumPy needs one for each comparison."""

from __future__ import annotations

import math
from typing import Any

from cass_core.cpu.jit import kernel


@kernel
def are_boxes(xyxy: Any) -> bool:
    """Whether all of ``[M, 4]`` float32 are finite and neither side is turned inside out."""
    good = True
    for box in range(xyxy.shape[0]):
        x1, y1, x2, y2 = xyxy[box, 0], xyxy[box, 1], xyxy[box, 2], xyxy[box, 3]
        # False for NaN. What lies between finite corners is finite.
        good &= x1 <= x2 and y1 <= y2 and x1 > -math.inf and y1 > -math.inf
        good &= x2 < math.inf and y2 < math.inf
    return good
