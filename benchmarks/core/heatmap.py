"""CenterNet's heatmaps, as a yardstick: NumPy, one box after the other, as data loaders draw them.

The maps are those of Zhou et al. 2019, "Objects as Points" (https://arxiv.org/abs/1904.07850),
section 3, of one class; the radius is that of Law & Deng 2018, "CornerNet"
(https://arxiv.org/abs/1808.01244), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MIN_OVERLAP = 0.7


def gaussian_radius(height: float, width: float, min_overlap: float = _MIN_OVERLAP) -> float:
    """How far both corners of a box may move with an IoU of at least ``min_overlap`` left.

    The least of three: the box shifts, shrinks or grows. Each is the root of a quadratic equation
    in the radius, here in the sum and the product of the sides.
    """
    sides, area, lost = height + width, height * width, 1 - min_overlap
    shifted = (sides - math.sqrt(sides**2 - 4 * area * lost / (1 + min_overlap))) / 2
    shrunk = (sides - math.sqrt(sides**2 - 4 * area * lost)) / 4
    grown = (math.sqrt(sides**2 + 4 * area * lost / min_overlap) - sides) / 4
    return min(shifted, shrunk, grown)


def heatmaps(
    boxes: Sequence[npt.NDArray[np.float32]],
    image_size: tuple[int, int],
    feature_map: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Heatmaps ``[B, h, w]``: 1 at each box's centre, the greater of two Gaussians elsewhere.

    Args:
        boxes: ``[N_i, 4]`` xyxy in pixels, one per image.
        image_size: (H, W) in pixels.
        feature_map: (h, w) in cells.
    """
    height, width = feature_map
    maps = np.zeros((len(boxes), height, width), np.float32)
    scale = np.array([width / image_size[1], height / image_size[0]] * 2, np.float32)
    for heatmap, xyxy in zip(maps, boxes, strict=True):
        for x1, y1, x2, y2 in (xyxy * scale).tolist():
            radius = int(gaussian_radius(y2 - y1, x2 - x1))
            # A box may end where the map does.
            x, y = min(int((x1 + x2) / 2), width - 1), min(int((y1 + y2) / 2), height - 1)
            _draw(heatmap, x, y, radius)
    return maps


def _draw(heatmap: npt.NDArray[np.float32], x: int, y: int, radius: int) -> None:
    sigma = (2 * radius + 1) / 6
    height, width = heatmap.shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    dy, dx = np.ogrid[-top:bottom, -left:right]
    gaussian = np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
    window = heatmap[y - top : y + bottom, x - left : x + right]
    np.maximum(window, gaussian, out=window)
