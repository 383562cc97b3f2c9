"""Finds boxes and image size in a detection set's sample, whichever of the usual forms it has."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cass_core.checks.warn import warn_once
from cass_core.errors import InvalidRequest

_MOST_CHANNELS = 4
_BBOX = "must be four numbers: x, y, width, height"
# Flags of what is no single object.
_LEFT_OUT = ("iscrowd", "ignore")


def boxes_and_size(sample: Any, position: int, boxes: str, image: str) -> tuple[Any, Any]:
    """The boxes of a sample (COCO annotations as ``[N, 4]`` xyxy) and (H, W) of its image.

    Errors name ``boxes[position]`` or ``image_size[position]``.
    """
    name, size_name = f"boxes[{position}]", f"image_size[{position}]"
    if isinstance(sample, Mapping):
        found, picture = _of_target(sample, boxes, name), _value(sample, image, size_name)
    elif isinstance(sample, tuple | list) and len(sample) >= 2:
        picture, found = sample[0], sample[1]
        if isinstance(found, Mapping):
            # Of an image without annotations, as torchvision wraps a COCO set.
            found = _of_target(found, boxes, name) if set(found) - {"image_id"} else None
    else:
        raise InvalidRequest(
            name,
            f"cannot be found in a {_kind(sample)}; a sample must be a dict or (image, target), "
            "or boxes a function",
        )
    if _are_annotations(found):
        found = _coco_xyxy(found, name)
    return found, _image_size(picture, size_name)


def _value(mapping: Mapping[Any, Any], key: str, name: str) -> Any:
    if key not in mapping:
        keys = ", ".join(map(repr, mapping)) or "none"
        raise InvalidRequest(name, f"there is no key {key!r}; the keys are: {keys}")
    return mapping[key]


def _of_target(target: Mapping[Any, Any], key: str, name: str) -> Any:
    """The boxes of a target, without those that its flags leave out."""
    boxes = _value(target, key, name)
    if _are_annotations(boxes) or not _has_length(boxes):
        return boxes
    left_out = np.zeros(len(boxes), bool)
    for flags in _LEFT_OUT:
        if target.get(flags) is not None:
            left_out |= _flags(target[flags], len(boxes), name, flags)
    if not left_out.any():
        return boxes
    _warn_of_left_out(int(left_out.sum()), len(boxes), name)
    if not isinstance(boxes, Tensor):
        return [box for box, out in zip(boxes, left_out, strict=True) if not out]
    kept = boxes.as_subclass(Tensor)[torch.from_numpy(~left_out).to(boxes.device)]
    if type(boxes) is not Tensor:  # torchvision's, which say their format
        kept = kept.as_subclass(type(boxes))
        vars(kept).update(vars(boxes))
    return kept


def _has_length(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _are_annotations(boxes: Any) -> bool:
    return isinstance(boxes, list | tuple) and any(isinstance(entry, Mapping) for entry in boxes)


def _flags(values: Any, count: int, name: str, key: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The flags of the boxes of a target, as torchvision's references give them."""
    if not _is_row(values) or not _has_length(values) or len(values) != count:
        raise InvalidRequest(f"{name}.{key}", f"must be 0 or 1 for each of {count} boxes")
    return np.array([_flag(value, f"{name}[{i}].{key}") for i, value in enumerate(values)], bool)


def _coco_xyxy(annotations: Sequence[Any], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Corners of COCO annotations, which give x, y, width, height; without what is left out."""
    corners = []
    for i, annotation in enumerate(annotations):
        # Other sets have lists of dicts too, whose `bbox` is xyxy: KITTI's, Detectron2's.
        if not (isinstance(annotation, Mapping) and "image_id" in annotation):
            raise InvalidRequest(
                f"{name}[{i}]", "is not a COCO annotation, which has an image_id and a bbox"
            )
        bbox: Any = annotation.get("bbox")
        try:
            x, y, width, height = map(_number, bbox if _is_row(bbox) else ())
        except (TypeError, ValueError, OverflowError):
            raise InvalidRequest(f"{name}[{i}].bbox", _BBOX) from None
        if width < 0 or height < 0:
            raise InvalidRequest(f"{name}[{i}].bbox", "has a negative width or height")
        flags = [_flag(annotation.get(key), f"{name}[{i}].{key}") for key in _LEFT_OUT]
        if not any(flags):
            corners.append((x, y, x + width, y + height))
    _warn_of_left_out(len(annotations) - len(corners), len(annotations), name)
    return np.array(corners, np.float64).reshape(-1, 4)


def _is_row(value: Any) -> bool:
    """Whether it has values in an order, of which none is masked; text and bytes are no numbers."""
    return isinstance(value, list | tuple | np.ndarray | Tensor) and not np.ma.is_masked(value)


def _number(value: Any) -> float:
    """Python's float of a number; text and truth values, which `float` takes, are none."""
    number = _scalar(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError
    return float(number)


def _scalar(value: Any) -> Any:
    is_array = isinstance(value, Tensor | np.ndarray | np.generic)
    return value.item() if is_array and value.ndim == 0 else value


def _warn_of_left_out(count: int, total: int, name: str) -> None:
    if count:
        warn_once(
            "crowd",
            "crowd regions (iscrowd: 1) and ignored objects (ignore: 1) are left out of the masks, "
            f"so that their patches are background: {count} of {total} objects of {name}",
        )


def _flag(value: Any, name: str) -> bool:
    """A flag as COCO has it; text is no truth value, as "0" would be true."""
    flag = _scalar(value)
    if flag is not None and not (isinstance(flag, int | float) and flag in (0, 1)):
        raise InvalidRequest(name, f"must be 0 or 1, got {value!r}")
    return bool(flag)


def _image_size(image: Any, name: str) -> tuple[int, int]:
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return image.height, image.width
    if not isinstance(image, Tensor | np.ndarray):
        raise InvalidRequest(
            name,
            f"cannot be read from {_kind(image)}; an image must be a tensor, an array or of PIL",
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


def _kind(value: object) -> str:
    return type(value).__name__
