"""The boxes of one image in whatever holds them: a target, a library's object, rows.

Libraries are known by what their objects have, and none is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from cass_client.boxes import ONE
from cass_client.image_boxes import Form, ImageBoxes
from cass_client.torch.targets.coco import (
    FLAGS,
    are_annotations,
    as_number,
    read_annotations,
    split_ignored,
)
from cass_client.torch.targets.images import shown_keys
from cass_core.errors import InvalidRequest

# Where targets have their boxes, beside the key that a user names.
_KEYS = ("boxes", "bboxes", "instances", "data_samples", "annotations", "labels")


def read_target(target: Any, name: str, key: str, form: Form) -> ImageBoxes:
    """The boxes of an image.

    Args:
        target: a dict, a library's object, COCO annotations, or the boxes themselves.
        name: what errors name, such as ``boxes[3]``.
        key: of the boxes in a dict.
        form: of boxes that do not say it themselves.
    """
    if isinstance(target, Mapping):
        return _of_mapping(target, name, key, form)
    if are_annotations(target):
        return read_annotations(target, name, {}, form.normalized)
    if not _is_plain(target):
        return dataclasses.replace(_of_object(target, name), normalized=form.normalized)
    return ImageBoxes(_rows(target, name, form), form.box_format or "xyxy", form.normalized)


def boxes_key(target: Mapping[Any, Any], key: str, name: str) -> str:
    """The key of the boxes in a target or a sample."""
    for candidate in (key, *_KEYS) if key == "boxes" else (key,):
        # Labels are targets in Hugging Face's samples and numbers of classes in all others.
        if candidate in target and (candidate != "labels" or _is_target(target[candidate])):
            return candidate
    raise InvalidRequest(name, f"there is no key {key!r}; {shown_keys(target)}")


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) or are_annotations(value)


def _of_mapping(target: Mapping[Any, Any], name: str, key: str, form: Form) -> ImageBoxes:
    found_key = boxes_key(target, key, name)
    boxes = target[found_key]
    if isinstance(boxes, Mapping):
        flags = {flag: target[flag] for flag in FLAGS if flag in target}
        return read_target({**flags, **boxes}, name, key, form)
    if are_annotations(boxes):
        return read_annotations(boxes, name, target, form.normalized)
    if found_key == "bboxes" and "batch_idx" in target:
        found = ImageBoxes(four_columns(boxes, name), *known_form(form))
    elif "class_labels" in target and _is_plain(boxes):
        is_strict = form.normalized is None
        found = ImageBoxes(boxes, *known_form(form), _size(target, name), strict=is_strict)
    else:
        found = read_target(boxes, name, key, form)
        found = dataclasses.replace(found, size=_size(target, name) or found.size)
    values, ignored = split_ignored(found.values, target, name)
    if ignored is None:
        return found
    return dataclasses.replace(found, values=values, ignored=(*found.ignored, ignored))


def known_form(form: Form) -> tuple[str, bool | None]:
    """Of boxes that are normalised centres and sizes, unless the user says otherwise."""
    if form.box_format is None or form.box_format == "cxcywh":
        return "cxcywh", form.normalized is not False
    return form.box_format, form.normalized  # converted, and perhaps scaled too


def four_columns(boxes: Any, name: str) -> Any:
    """Boxes of ultralytics, whose rotated ones have an angle too."""
    shape = getattr(boxes, "shape", (0, 4))
    if len(shape) == 2 and shape[1] == 5:
        raise InvalidRequest(name, "are rotated boxes, of five numbers; masks need upright ones")
    return boxes


def _size(target: Mapping[Any, Any], name: str) -> tuple[int, int] | None:
    size = target.get("size")
    if size is None:
        return None
    try:
        height, width = np.asarray(size.cpu() if isinstance(size, Tensor) else size).tolist()
        return int(height), int(width)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name}.size", f"must be (H, W) in pixels, got {size!r}") from None


def _is_plain(boxes: Any) -> bool:
    """Whether boxes are rows of numbers, or none, and no object of a library."""
    return isinstance(boxes, Tensor | np.ndarray | list | tuple) or boxes is None


def _of_object(target: Any, name: str) -> ImageBoxes:
    """Corners in pixels of an object of a library."""
    if hasattr(target, "gt_instances"):  # mmdet's DetDataSample
        found = _of_object(target.gt_instances, name)
        rest = getattr(target, "ignored_instances", None)
        ignored = () if rest is None else (_of_object(rest, name).values,)
        return dataclasses.replace(found, size=getattr(target, "img_shape", None), ignored=ignored)
    for attribute in ("gt_boxes", "bboxes", "xyxy"):  # detectron2, mmengine, supervision
        if hasattr(target, attribute):
            boxes = getattr(target, attribute)
            values = boxes if _is_plain(boxes) else _of_object(boxes, name).values
            return ImageBoxes(values, size=getattr(target, "image_size", None))
    boxes = getattr(target, "tensor", None)  # detectron2's Boxes, mmdet's HorizontalBoxes
    if isinstance(boxes, Tensor):
        if boxes.ndim == 2 and boxes.shape[1] == 5:
            raise InvalidRequest(
                name, f"are rotated boxes ({type(target).__name__}); masks need upright ones"
            )
        return ImageBoxes(boxes)
    raise InvalidRequest(
        name,
        f"cannot be read from {type(target).__name__}; write boxes=FUNCTION, which gives xyxy "
        "boxes and (H, W)",
    )


def _rows(boxes: Any, name: str, form: Form) -> Any:
    """Boxes as they are; of albumentations' rows, which may end in labels, the first four."""
    if not isinstance(boxes, list | tuple):
        return boxes
    lengths = {len(row) for row in boxes if isinstance(row, list | tuple)}
    if not lengths or max(lengths) <= 4:
        return boxes
    if form.box_format is None:
        raise InvalidRequest(
            name,
            f"has rows of {max(lengths)} values: set box_format, so that the first four are read "
            "and the rest, labels, is not",
        )
    is_cxcywh = form.box_format == "cxcywh" and form.normalized is not False
    if is_cxcywh and all(map(_begins_with_class, boxes)):
        raise InvalidRequest(
            name,
            "has rows that look like YOLO's, (class, cx, cy, w, h), while the first four values "
            "are read: write the class last, (cx, cy, w, h, class), or not at all",
        )
    return [tuple(row[:4]) for row in boxes]


def _begins_with_class(row: Any) -> bool:
    """Whether a row of normalised boxes has a whole number and then four shares."""
    try:
        number, *shares = map(as_number, row[:5])
    except (TypeError, OverflowError):  # such as a label that is text
        return False
    return number % 1 == 0 and len(shares) == 4 and 0 <= min(shares) <= max(shares) <= ONE
