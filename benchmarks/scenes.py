"""Boxes like those of street scenes, for benchmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IMAGE_SIZE = (736, 1280)
"""Height and width in pixels."""


def street_boxes(images: int, boxes: int, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """``boxes`` boxes ``[boxes, 4]`` for each image: most small, most taller than wide."""
    rng = np.random.default_rng(seed)
    height, width = IMAGE_SIZE
    shape = (images, boxes)
    box_h = np.exp(rng.normal(np.log(40), 0.8, shape))
    box_w = box_h * rng.uniform(0.3, 1.2, shape)
    x, bottom = rng.uniform(0, width, shape), rng.uniform(0.4 * height, height, shape)
    xyxy = np.stack([x - box_w / 2, bottom - box_h, x + box_w / 2, bottom], axis=2)
    limits = np.array([width, height, width, height])
    return list(np.clip(xyxy, 0, limits).astype(np.float32))
