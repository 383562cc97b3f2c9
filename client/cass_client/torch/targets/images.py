"""Sizes of images, one by one and of a collated batch, and where padding is in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cass_client.image_boxes import Region
from cass_core.errors import InvalidRequest

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "inputs")
"""Where data sets and batches have their images, beside the key that a user names."""

_MOST_CHANNELS = 4


def image_key(mapping: Mapping[Any, Any], key: str, name: str) -> str:
    """The key of the images of a sample or a batch."""
    for candidate in (key, *IMAGE_KEYS) if key == "image" else (key,):
        if candidate in mapping:
            return candidate
    raise InvalidRequest(name, f"there is no key {key!r}; {shown_keys(mapping)}")


def shown_keys(mapping: Mapping[Any, Any]) -> str:
    """What an error says of the keys that there are."""
    return f"the keys are: {', '.join(map(repr, mapping)) or 'none'}"


def image_size(image: Any, name: str) -> tuple[int, int]:
    """(H, W) of a tensor, an array or a picture of PIL."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return image.height, image.width
    if not isinstance(image, Tensor | np.ndarray):
        raise InvalidRequest(
            name,
            f"cannot be read from {type(image).__name__}; an image must be a tensor, an array or "
            "of PIL",
        )
    shape = tuple(image.shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    order, channels_first = ("CHW", True) if isinstance(image, Tensor) else ("HWC", False)
    if len(shape) == 3:
        channels, other = (shape[0], shape[2]) if channels_first else (shape[2], shape[0])
        if channels <= _MOST_CHANNELS or other > _MOST_CHANNELS:
            return (shape[1], shape[2]) if channels_first else (shape[0], shape[1])
    raise InvalidRequest(
        name,
        f"cannot be read from an image of the shape {list(shape)}; "
        f"a {'tensor' if channels_first else 'NumPy array'} must be {order}",
    )


def batch_sizes(images: Any) -> list[tuple[int, int]]:
    """(H, W) of each image of a collated batch: stacked, in a list, or with ``tensors``."""
    stacked = getattr(images, "tensors", images)
    if isinstance(stacked, Tensor | np.ndarray):
        if stacked.ndim not in (3, 4):
            raise InvalidRequest(
                "image_size",
                f"cannot be read from images of the shape {list(stacked.shape)}, which must be "
                "[B, C, H, W]",
            )
        return [image_size(image, f"image_size[{i}]") for i, image in enumerate(stacked)]
    if isinstance(stacked, Sequence) and not isinstance(stacked, str | bytes):
        return [image_size(image, f"image_size[{i}]") for i, image in enumerate(stacked)]
    raise InvalidRequest(
        "image_size",
        f"cannot be read from {type(images).__name__}; images must be a tensor [B, C, H, W], a "
        "list of images, or an object with such tensors",
    )


def regions_of_batch(images: Any, pixel_mask: Any) -> list[Region] | None:
    """Where the picture is in each image of a batch; None if the batch does not say so.

    Args:
        images: the batch's, as of `batch_sizes`; those of DETR have a ``mask``, and torchvision's
            ``ImageList`` has ``image_sizes``.
        pixel_mask: as Hugging Face's, or None.
    """
    if pixel_mask is not None:
        return pictures(pixel_mask, padding=False)
    if isinstance(getattr(images, "mask", None), Tensor):
        return pictures(images.mask, padding=True)
    sizes = getattr(images, "image_sizes", None)
    if sizes is None:
        return None
    return [(0.0, 0.0, float(height), float(width)) for height, width in sizes]


def pictures(mask: Any, padding: bool) -> list[Region]:
    """Where the picture is in each image of a batch, or in the only one.

    Args:
        mask: ``[B, H, W]`` or ``[H, W]``.
        padding: whether the mask is true where there is padding (as in DETR's ``NestedTensor``) or
            where there is picture (as Hugging Face's ``pixel_mask``).
    """
    array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask).astype(bool) ^ padding
    return [_bounds(image) for image in (array[None] if array.ndim == 2 else array)]


def _bounds(picture: Any) -> Region:
    rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return (
        float(columns[0]),
        float(rows[0]),
        float(rows[-1] - rows[0] + 1),
        float(columns[-1] - columns[0] + 1),
    )
