"""Requests to a `Batcher`, each with a number that its masks are to be filled with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cass_core import BoxBatch, MaskSpec
from cass_core.arrays import storage_dtype
from cass_core.inputs import MaskInputs
from cass_server.scheduling.batcher import BatchRequest, Output

PATCHES = 16
"""Of one image of `mask_inputs`."""


def mask_inputs(name: int, images: int = 1, boxes: int = 1, **changes: Any) -> MaskInputs:
    """Images with boxes that all begin at x1 = ``name``."""
    xyxy = np.tile(np.array([name, 0, name, 1], np.float32), (images * boxes, 1))
    arguments: dict[str, Any] = {
        "image_size": (32, 32),
        "feature_map": (4, 4),
        "spec": MaskSpec(patch_size=1),  # equal, but another for each
        "dtype": "float32",
        "return_owner": False,
    }
    return MaskInputs.check(BoxBatch(xyxy, np.full(images, boxes)), **arguments | changes)


def unfilled(
    inputs: MaskInputs,
    expires: float = math.inf,
    is_wanted: Callable[[], bool] = lambda: True,
) -> BatchRequest:
    """A request whose arrays hold what nobody computes."""
    masks = [np.full(shape, 77, storage_dtype(inputs.dtype)) for shape in inputs.shapes()]
    owners = [np.full(mask.shape, 77, np.int32) for mask in masks] if inputs.return_owner else []
    return BatchRequest(inputs, masks, owners, expires, is_wanted)


def batch_request(name: int, *arguments: Any, **changes: Any) -> BatchRequest:
    """Unfilled; its boxes begin at x1 = ``name``."""
    return unfilled(mask_inputs(name, **changes), *arguments)


def values_of(inputs: MaskInputs, outputs: Sequence[Output]) -> list[Any]:
    """Of each request, the x1 of the first box of each image."""
    x1 = np.asarray(inputs.boxes.xyxy)[inputs.boxes.offsets[:-1], 0]
    stops = np.cumsum([len(masks[0]) for masks, _ in outputs])
    assert stops[-1] == inputs.boxes.num_images
    return np.split(x1, stops[:-1])


def fill(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
    """Write the x1 of each image's first box to all of its patches."""
    for value, (masks, _) in zip(values_of(inputs, outputs), outputs, strict=True):
        for mask in masks:
            mask[...] = value[:, None, None]


def is_filled(request: BatchRequest) -> bool:
    """Whether the first mask has its request's own number."""
    return bool((request.masks[0] == np.asarray(request.inputs.boxes.xyxy)[0, 0]).all())
