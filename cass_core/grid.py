"""Image sizes, feature maps and the patch grid they give."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cass_core.arrays import is_tensor
from cass_core.errors import InvalidRequest

FeatureMap: TypeAlias = tuple[int, int]
Sizes: TypeAlias = npt.NDArray[np.float64]

MAX_SIDE = 2**31 - 1
"""Longest side of an image (pixels) or a feature map (cells)."""


def patch_grid(feature_map: FeatureMap, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches on a map of (h, w) cells.

    Example:
        >>> patch_grid((23, 40), 4)
        (6, 10)
    """
    height, width = feature_map
    return -(-height // patch_size), -(-width // patch_size)


def feature_maps(value: Any) -> tuple[list[FeatureMap], bool]:
    """One (h, w) or a list of them, as a list; and whether it was one."""
    pair = _pair(value)
    if pair is not None:
        return [_checked(pair, "feature_map")], True
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidRequest("feature_map", "must be (h, w), or a list of them")
    maps = []
    for i, entry in enumerate(value):
        pair = _pair(entry)
        if pair is None:
            raise InvalidRequest(f"feature_map[{i}]", "must be (h, w), two whole numbers")
        maps.append(_checked(pair, f"feature_map[{i}]"))
    return maps, False


def one_feature_map(value: Any) -> FeatureMap:
    """A single (h, w), where a list of maps has no meaning."""
    maps, single = feature_maps(value)
    if not single:
        raise InvalidRequest("feature_map", "must be one (h, w) here")
    return maps[0]


def one_image_size(value: Any) -> tuple[int, int] | None:
    """A single (H, W), checked; None if the value is one size for each image."""
    pair = _pair(value)
    return None if pair is None else _checked(pair, "image_size")


def same_image_size(value: Any) -> tuple[int, int]:
    """A single (H, W), where sizes of each image have no meaning."""
    size = one_image_size(value)
    if size is None:
        raise InvalidRequest("image_size", "must be one (H, W) here")
    return size


def image_sizes(value: Any, num_images: int) -> Sizes:
    """Image sizes as ``[1, 2]`` (one for all) or ``[B, 2]`` float64 of (height, width)."""
    size = one_image_size(value)
    if size is not None:
        return _same_for_all(size)
    if is_tensor(value):
        value = value.detach().cpu().resolve_neg().numpy()
    elif np.ma.is_masked(value):
        raise InvalidRequest("image_size", "has masked values")
    elif not isinstance(value, np.ndarray):
        # Loaders give lists of small tensors, as in DETR's `orig_size`.
        value = (
            [v.tolist() if hasattr(v, "tolist") else v for v in value]
            if isinstance(value, Sequence) and not isinstance(value, str | bytes)
            else value
        )
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "iuf" and given.size:  # text of digits, too
            raise TypeError
        sizes = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest("image_size", _SIZE_FORM) from None
    if sizes.size == 0 and num_images == 0:
        return np.empty((0, 2), np.float64)
    if sizes.ndim != 2 or sizes.shape[1] != 2:
        raise InvalidRequest("image_size", _SIZE_FORM)
    if sizes.shape[0] != num_images:
        raise InvalidRequest(
            "image_size", f"has {sizes.shape[0]} entries, but there are {num_images} images"
        )
    good = ((sizes >= 1) & (sizes <= MAX_SIDE) & (sizes == np.floor(sizes))).all(axis=1)
    if not good.all():
        image = int(np.argmin(good))
        raise InvalidRequest(
            f"image_size[{image}]", f"{_RANGE}, got {_plain(sizes[image].tolist())}"
        )
    return sizes


@functools.lru_cache(maxsize=64)
def _same_for_all(size: tuple[int, int]) -> Sizes:
    sizes = np.array([size], np.float64)
    sizes.flags.writeable = False
    return sizes


_SIZE_FORM = "must be (H, W), or one (H, W) for each image"
_RANGE = f"must be two whole numbers from 1 to {MAX_SIDE}"


def _pair(value: Any) -> tuple[Any, Any] | None:
    """The two numbers of a flat pair, or None if it is anything else."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        return None
    first, second = value
    if isinstance(first, Sequence | np.ndarray) or isinstance(second, Sequence | np.ndarray):
        return None
    if getattr(first, "ndim", 0) or getattr(second, "ndim", 0):
        return None
    return first, second


def _checked(pair: tuple[Any, Any], field: str) -> FeatureMap:
    if (
        type(pair[0]) is type(pair[1]) is int
        and 0 < pair[0] <= MAX_SIDE
        and 0 < pair[1] <= MAX_SIDE
    ):
        return pair
    sides = []
    for side in pair:
        try:
            number = operator.index(side)
        except TypeError:
            number = int(side) if isinstance(side, float) and side.is_integer() else 0
        sides.append(0 if isinstance(side, bool) else number)
    if not (1 <= sides[0] <= MAX_SIDE and 1 <= sides[1] <= MAX_SIDE):
        raise InvalidRequest(field, f"{_RANGE}, got {_plain(list(pair))}")
    return sides[0], sides[1]


def _plain(pair: list[Any]) -> str:
    def show(side: Any) -> str:
        return str(int(side)) if isinstance(side, float) and side.is_integer() else str(side)

    return f"({', '.join(show(side) for side in pair)})"
