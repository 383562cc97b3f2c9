"""What losses take: logits, a target, and whether their shapes go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from cass_core.arrays import LOGIT_DTYPES, TARGET_DTYPES, Tensorlike, is_tensor
from cass_core.checks.warn import is_due, warn_once, were_shown
from cass_core.checks.weighting import check_weights
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, patch_grid

Shape = tuple[int, ...]

# Of the patch sizes that an error suggests.
_LARGEST_HINT = 64


def check_logits(logits: Any, field: str = "logits") -> Tensorlike:
    """Logits as an array or tensor of a dtype that the losses know."""
    return _check_array(logits, field, LOGIT_DTYPES)


def check_target(target: Any, logits: Tensorlike) -> Tensorlike:
    """A target of the logits' shape, or with the grid flattened where they are not."""
    checked = _check_array(target, "target", TARGET_DTYPES)
    _check_place(checked, "target", logits)
    check_same_patches(tuple(logits.shape), tuple(checked.shape))
    return checked


def check_loss_weights(weights: Any, logits: Tensorlike, *, read: bool = True) -> Tensorlike:
    """Weights of the logits' patches in float32; a device's values are never read."""
    checked = _check_array(weights, "weights", LOGIT_DTYPES)
    _check_place(checked, "weights", logits)
    check_same_patches(tuple(logits.shape), tuple(checked.shape), "weights")
    if is_tensor(checked):
        checked = checked.detach().float()
    elif checked.dtype != np.float32:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
            checked = np.asarray(checked, np.float32)
    if read:
        check_weights(checked, "weights")
    return checked


def warn_of_ones(mask: Tensorlike, field: str) -> None:
    """Warns of a uint8 mask that has no larger value than 1; a device's is not read."""
    if str(mask.dtype).removeprefix("torch.") != "uint8" or were_shown("ones") or not is_due():
        return
    if is_tensor(mask):
        if mask.device.type != "cpu":
            return
        mask = mask.numpy()
    if np.max(mask, initial=0) == 1:
        warn_once(
            "ones",
            f"{field} is uint8, which stands for value / 255, and its largest value is 1: a mask "
            "of 0 and 1 must be float",
        )


def check_same_patches(logits: Shape, target: Shape, field: str = "target") -> None:
    """Rejects shapes that are neither equal nor ``[B, n_y, n_x]`` beside ``[B, n_y * n_x]``."""
    if not _go_together(logits, target):
        raise InvalidRequest(field, f"has the shape {list(target)}, the logits have {list(logits)}")


def check_grid(
    logits: Shape, images: int, feature_map: FeatureMap, patch_size: int, field: str = "logits"
) -> None:
    """Rejects logits that are not one for each patch of a feature map, flattened or not."""
    rows, columns = patch_grid(feature_map, patch_size)
    if _go_together(logits, (images, rows, columns)):
        return
    others = (p for p in range(1, min(max(feature_map), _LARGEST_HINT) + 1) if p != patch_size)
    fitting = (p for p in others if _go_together(logits, (logits[0], *patch_grid(feature_map, p))))
    other = next(fitting, None)
    hint = "" if other is None else f"; these would fit mask_spec.patch_size {other}"
    raise InvalidRequest(
        field,
        f"have the shape {list(logits)}, the grid is {[images, rows, columns]} or "
        f"{[images, rows * columns]}: feature_map {feature_map} with mask_spec.patch_size "
        f"{patch_size}{hint}",
    )


def _go_together(first: Shape, second: Shape) -> bool:
    if first == second:
        return True
    short, long = sorted((first, second), key=len)
    return len(short) == 2 and len(long) == 3 and short == (long[0], long[1] * long[2])


def _check_place(value: Tensorlike, field: str, logits: Tensorlike) -> None:
    if is_tensor(value) != is_tensor(logits):
        raise InvalidRequest(field, "must be of the same kind (NumPy or torch) as the logits")
    if is_tensor(value) and is_tensor(logits) and value.device != logits.device:
        raise InvalidRequest(field, f"is on {value.device}, the logits on {logits.device}")


def check_dense(value: Any, field: str) -> None:
    """Rejects arrays with masked values, and tensors that are not strided."""
    if not is_tensor(value):
        if np.ma.is_masked(value):
            raise InvalidRequest(field, "has masked values")
    elif str(value.layout) != "torch.strided":
        raise InvalidRequest(field, f"must be dense, got {value.layout}")


def _check_array(value: Any, field: str, dtypes: tuple[str, ...]) -> Tensorlike:
    check_dense(value, field)
    if not is_tensor(value):
        if isinstance(value, list | tuple) and any(map(is_tensor, value)):
            raise InvalidRequest(
                field, "must be one tensor, or a list of levels with at least two dimensions each"
            )
        try:
            value = np.asarray(value)
            if value.dtype.kind not in "fiucb":
                raise ValueError
        except ValueError:
            raise InvalidRequest(field, "must be an array of numbers") from None
        if not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="))
    name = str(value.dtype).removeprefix("torch.")
    if name not in dtypes:
        raise InvalidRequest(field, f"must have a dtype of {', '.join(dtypes)}, got {name}")
    if value.ndim == 0:
        raise InvalidRequest(field, "must have at least one dimension")
    array: Tensorlike = value
    return array
