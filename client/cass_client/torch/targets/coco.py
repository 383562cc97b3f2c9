"""COCO annotations, and the flags of what is no single object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cass_core.checks.warn import warn_once
from cass_core.errors import InvalidRequest

_BBOX = "must be four numbers: x, y, width, height"
LEFT_OUT = ("iscrowd", "ignore")
"""Flags of what is no single object."""


def are_annotations(boxes: Any) -> bool:
    """Whether these are annotations and no boxes."""
    return isinstance(boxes, list | tuple) and any(isinstance(entry, Mapping) for entry in boxes)


def coco_xywh(annotations: Sequence[Any], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``[N, 4]``, x, y, width, height, of COCO annotations, without what is left out."""
    found = []
    for i, annotation in enumerate(annotations):
        # Other sets have lists of dicts too, whose `bbox` is xyxy: KITTI's, Detectron2's.
        if not (isinstance(annotation, Mapping) and "image_id" in annotation):
            raise InvalidRequest(
                f"{name}[{i}]", "is not a COCO annotation, which has an image_id and a bbox"
            )
        bbox: Any = annotation.get("bbox")
        try:
            x, y, width, height = map(as_number, bbox if is_row(bbox) else ())
        except (TypeError, ValueError, OverflowError):
            raise InvalidRequest(f"{name}[{i}].bbox", _BBOX) from None
        if width < 0 or height < 0:
            raise InvalidRequest(f"{name}[{i}].bbox", "has a negative width or height")
        flags = [_flag(annotation.get(key), f"{name}[{i}].{key}") for key in LEFT_OUT]
        if not any(flags):
            found.append((x, y, width, height))
    warn_of_left_out(len(annotations) - len(found), len(annotations), name)
    return np.array(found, np.float64).reshape(-1, 4)


def without_left_out(boxes: Any, target: Mapping[Any, Any], name: str) -> Any:
    """The boxes of a target, without those that its flags leave out."""
    if not has_length(boxes):
        return boxes
    left_out = np.zeros(len(boxes), bool)
    for flags in LEFT_OUT:
        if target.get(flags) is not None:
            left_out |= _flags(target[flags], len(boxes), name, flags)
    if not left_out.any():
        return boxes
    warn_of_left_out(int(left_out.sum()), len(boxes), name)
    if not isinstance(boxes, Tensor):
        return [box for box, out in zip(boxes, left_out, strict=True) if not out]
    kept = boxes.as_subclass(Tensor)[torch.from_numpy(~left_out).to(boxes.device)]
    if type(boxes) is not Tensor:  # torchvision's, which say their format
        kept = kept.as_subclass(type(boxes))
        vars(kept).update(vars(boxes))
    return kept


def warn_of_left_out(count: int, total: int, name: str) -> None:
    """Warns once of regions that are taught as background."""
    if count:
        warn_once(
            "crowd",
            "crowd regions (iscrowd: 1) and ignored objects (ignore: 1) are left out of the masks, "
            f"so that their patches are background: {count} of {total} objects of {name}",
        )


def is_row(value: Any) -> bool:
    """Whether it has values in an order, of which none is masked; text and bytes are no numbers."""
    return isinstance(value, list | tuple | np.ndarray | Tensor) and not np.ma.is_masked(value)


def has_length(value: Any) -> bool:
    """Whether `len` takes it, which a tensor of no dimensions refuses."""
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _flags(values: Any, count: int, name: str, key: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The flags of the boxes of a target, as torchvision's references give them."""
    if not is_row(values) or not has_length(values) or len(values) != count:
        raise InvalidRequest(f"{name}.{key}", f"must be 0 or 1 for each of {count} boxes")
    return np.array([_flag(value, f"{name}[{i}].{key}") for i, value in enumerate(values)], bool)


def as_number(value: Any) -> float:
    """Python's float of a number; text and truth values, which `float` takes, are none."""
    number = _scalar(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError
    return float(number)


def _scalar(value: Any) -> Any:
    is_array = isinstance(value, Tensor | np.ndarray | np.generic)
    return value.item() if is_array and value.ndim == 0 else value


def _flag(value: Any, name: str) -> bool:
    """A flag as COCO has it; text is no truth value, as "0" would be true."""
    flag = _scalar(value)
    if flag is not None and not (isinstance(flag, int | float) and flag in (0, 1)):
        raise InvalidRequest(name, f"must be 0 or 1, got {value!r}")
    return bool(flag)
