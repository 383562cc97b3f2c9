"""COCO annotations, and the flags of what is no single object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cass_client.image_boxes import ImageBoxes
from cass_core.errors import InvalidRequest

_BBOX = "must be four numbers: x, y, width, height"
FLAGS = ("iscrowd", "ignore")
"""Flags of what is no single object."""


def are_annotations(boxes: Any) -> bool:
    """Whether these are annotations and no boxes."""
    return isinstance(boxes, list | tuple) and any(isinstance(entry, Mapping) for entry in boxes)


def read_annotations(
    annotations: Sequence[Any], name: str, beside: Mapping[Any, Any], normalized: bool | None
) -> ImageBoxes:
    """The boxes of COCO annotations, x, y, width, height, and those of what is ignored.

    Args:
        annotations: of one image.
        name: what errors name.
        beside: what may have flags of them, beside their own.
        normalized: as of `ImageBoxes`.
    """
    found = []
    ignored = flags_beside(beside, len(annotations), name)
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
        flags = [_flag(annotation.get(key), f"{name}[{i}].{key}") for key in FLAGS]
        ignored[i] |= any(flags)
        found.append((x, y, width, height))
    xywh = np.array(found, np.float64).reshape(-1, 4)
    return ImageBoxes(xywh[~ignored], "xywh", normalized, ignored=(xywh[ignored],))


def split_ignored(boxes: Any, target: Mapping[Any, Any], name: str) -> tuple[Any, Any]:
    """The boxes of a target: those of objects, and those that its flags say to ignore."""
    if not has_length(boxes):
        return boxes, None
    ignored = flags_beside(target, len(boxes), name)
    if not ignored.any():
        return boxes, None
    return _rows(boxes, ~ignored), _rows(boxes, ignored)


def flags_beside(target: Mapping[Any, Any], count: int, name: str) -> npt.NDArray[np.bool_]:
    """``[count]``, which of a target's boxes are no single object, by its flags."""
    ignored = np.zeros(count, bool)
    for key in FLAGS:
        if target.get(key) is not None:
            ignored |= _flags(target[key], count, name, key)
    return ignored


def _rows(boxes: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    if not isinstance(boxes, Tensor):
        return [box for box, is_chosen in zip(boxes, chosen, strict=True) if is_chosen]
    rows = boxes.as_subclass(Tensor)[torch.from_numpy(chosen).to(boxes.device)]
    if type(boxes) is not Tensor:  # torchvision's, which say their format
        rows = rows.as_subclass(type(boxes))
        vars(rows).update(vars(boxes))
    return rows


def is_row(value: Any) -> bool:
    """Whether it has values in an order, of which none is masked; text and bytes are no numbers."""
    return isinstance(value, list | tuple | np.ndarray | Tensor) and not np.ma.is_masked(value)


def has_length(value: Any) -> bool:
    """Whether `len` takes it, which a tensor of no dimensions refuses."""
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _flags(values: Any, count: int, name: str, key: str) -> npt.NDArray[np.bool_]:
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
