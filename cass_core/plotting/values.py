"""What figures take: anything array-like, checked, as float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cass_core.arrays import is_tensor
from cass_core.checks.logits import warn_of_ones
from cass_core.errors import InvalidRequest

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
PatchPixels = tuple[float, float] | None
"""Height and width of a patch in pixels; None where the patches divide the image evenly."""


def numbers(value: Any, field: str, *, shares: bool = True) -> Values:
    """Anything array-like as float64; uint8 as value / 255, if these are shares of one."""
    if is_tensor(value):
        import torch

        scale = 255.0 if shares and value.dtype == torch.uint8 else 1.0
        array: Values = value.detach().double().cpu().resolve_neg().numpy()
        return array / scale
    if np.ma.is_masked(value):
        raise InvalidRequest(field, "has masked values")
    try:
        raw = np.asarray(value)
        if raw.dtype.kind not in "iufb" and raw.size:  # text is no truth value, nor a number
            raise TypeError
        return raw.astype(np.float64) / (255.0 if shares and raw.dtype == np.uint8 else 1.0)
    except (TypeError, ValueError):
        raise InvalidRequest(field, "must be an array of numbers") from None


def grid(value: Any, field: str, *, shares: bool = True) -> Values:
    """The patches of one image, ``[n_y, n_x]``."""
    array = numbers(value, field, shares=shares)
    if np.isnan(array).any():
        raise InvalidRequest(field, "holds NaN")
    if shares and np.ndim(value) == 2 and hasattr(value, "dtype"):
        warn_of_ones(value, field)
    if array.ndim != 2 or array.size == 0:
        raise InvalidRequest(
            field, f"must be of one image, [n_y, n_x], got the shape {list(array.shape)}"
        )
    return array


def weights_of(value: Any, mask: Values) -> Values | None:
    """What the patches of a mask weigh; None of None."""
    if value is None:
        return None
    weights = grid(value, "weights", shares=False)
    check_same_shape(mask, weights, "weights", "the mask")
    return weights


def check_same_shape(first: Values, second: Values, field: str, other: str) -> None:
    """Rejects patches of another shape than those beside them."""
    if first.shape != second.shape:
        raise InvalidRequest(
            field, f"has the shape {list(second.shape)}, {other} has {list(first.shape)}"
        )
