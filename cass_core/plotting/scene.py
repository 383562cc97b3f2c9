"""What a figure shows beneath its patches: a picture and its boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cass_core.boxes import BoxBatch
from cass_core.checks.plausible import check_canvas, warn_of_boxes
from cass_core.errors import InvalidRequest
from cass_core.grid import same_image_size
from cass_core.plotting.values import Flags, numbers

MOST_PIXELS = 32e6
"""Of a whole figure, and of a picture in it: some gigabyte while it is drawn."""

_CANVAS = 0.92
_WHITE = 1 + 1e-6


class Scene:
    """The checked picture and boxes that a figure shows.

    Args:
        image: see `cass_core.plotting.figures.plot_mask`, as for the others.
        boxes: ``[N, 4]`` xyxy in pixels, or None.
        image_size: (H, W) in pixels; needed without an image.
        without_patch: ``[N]``, whether a box has no patch; None for none of them.

    Raises:
        InvalidRequest: one of them cannot be used.
    """

    def __init__(self, image: Any, boxes: Any, image_size: Any, without_patch: Any = None) -> None:
        if image is None:
            if image_size is None:
                raise InvalidRequest("image_size", "is needed without an image")
            self.height, self.width = same_image_size(image_size)
            self.image = np.full((1, 1), _CANVAS)  # stretched
        else:
            if isinstance(image, list | tuple):
                image = numbers(image, "image")
            shape = tuple(getattr(image, "shape", ()))
            if len(shape) != 2 and (len(shape) != 3 or shape[2] != 3):
                raise InvalidRequest(
                    "image", f"must have the shape [H, W, 3] or [H, W], got {list(shape)}"
                )
            # Of a huge picture each second pixel, or fewer.
            step = max(1, math.ceil(math.sqrt(shape[0] * shape[1] / MOST_PIXELS)))
            self.image = numbers(image[::step, ::step], "image")
            if self.image.size == 0 or self.image.min() < 0 or self.image.max() > _WHITE:
                raise InvalidRequest("image", "must hold uint8, or values in [0, 1]")
            self.height, self.width = shape[0], shape[1]
            if image_size is not None and same_image_size(image_size) != (self.height, self.width):
                raise InvalidRequest(
                    "image_size", f"is {image_size}, the image has {(self.height, self.width)}"
                )
        batch = BoxBatch.from_list([boxes])
        self.boxes = numbers(batch.xyxy, "boxes")
        size = np.array([[self.height, self.width]], np.float64)
        check_canvas(batch, size)
        warn_of_boxes(batch, size)
        flags = np.zeros(len(self.boxes)) if without_patch is None else without_patch
        self.without_patch = flags_of_boxes(self, flags, "without_patch")


def flags_of_boxes(scene: Scene, value: Any, field: str) -> Flags:
    """One flag for each box, ``[N]``."""
    flags = numbers(value, field)
    if flags.shape != (len(scene.boxes),):
        raise InvalidRequest(field, f"must be [{len(scene.boxes)}], one for each box")
    return flags > 0
