"""Choices by name as the kernels take them: whole numbers.

numba's cache on disk does not notice that one of them has changed: remove it then.
"""

from __future__ import annotations

TEMPERATURES = {"fixed": 0, "size_scaled": 1, "small_gain": 2}
MERGES = {"max": 0, "sum": 1, "clipped_sum": 2}
KINDS = {
    "mse": 0,
    "bce": 1,
    "focal": 2,
    "cornernet": 3,
    "quality_focal": 4,
    "varifocal": 5,
    "soft_focal": 6,
}
