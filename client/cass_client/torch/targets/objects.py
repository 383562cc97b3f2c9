"""The boxes of one image in whatever holds them: a target, a library's object, rows.

Libraries are known by what their objects have, and none is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from cass_client.boxes import ONE
from cass_client.found import Form, Found
from cass_client.torch.targets.coco import (
    LEFT_OUT,
    are_annotations,
    as_number,
    coco_xywh,
    warn_of_left_out,
    without_left_out,
)
from cass_client.torch.targets.images import shown_keys
from cass_core.errors import InvalidRequest

# Where targets have their boxes, beside the key that a user names.
_KEYS = ("boxes", "bboxes", "instances", "data_samples", "annotations", "labels")


def read_target(target: Any, name: str, key: str, form: Form) -> Found:
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
        return Found(coco_xywh(target, name), "xywh", form.normalized)
    corners = _of_object(target, name)
    if corners is not None:
        return Found(corners, "xyxy", form.normalized)
    return Found(_rows(target, name, form), form.box_format or "xyxy", form.normalized)


def boxes_key(target: Mapping[Any, Any], key: str, name: str) -> str:
    """The key of the boxes in a target or a sample."""
    for candidate in (key, *_KEYS) if key == "boxes" else (key,):
        # Labels are targets in Hugging Face's samples and numbers of classes in all others.
        if candidate in target and (candidate != "labels" or _is_target(target[candidate])):
            return candidate
    raise InvalidRequest(name, f"there is no key {key!r}; {shown_keys(target)}")


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) or are_annotations(value)


def _of_mapping(target: Mapping[Any, Any], name: str, key: str, form: Form) -> Found:
    found_key = boxes_key(target, key, name)
    boxes = target[found_key]
    if isinstance(boxes, Mapping):
        flags = {flag: target[flag] for flag in LEFT_OUT if flag in target}
        return read_target({**flags, **boxes}, name, key, form)
    corners = _of_object(boxes, name)
    boxes = without_left_out(boxes if corners is None else corners, target, name)
    if are_annotations(boxes):
        return read_target(boxes, name, key, form)
    if found_key == "bboxes" and "batch_idx" in target:
        return Found(four_columns(boxes, name), *known_form(form))
    size = _size(target, name)
    if corners is not None:
        return Found(boxes, "xyxy", form.normalized, size)
    if "class_labels" in target:
        return Found(boxes, *known_form(form), size, strict=form.normalized is None)
    found = read_target(boxes, name, key, form)
    return Found(found.values, found.box_format, found.normalized, size)


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


def _of_object(target: Any, name: str) -> Any:
    """Corners in pixels of an object of a library; None of anything else."""
    if isinstance(target, Tensor | np.ndarray | list | tuple) or target is None:
        return None
    if hasattr(target, "gt_instances"):  # mmdet's DetDataSample
        ignored = getattr(target, "ignored_instances", None)
        count = 0 if ignored is None else len(ignored)
        found = _of_object(target.gt_instances, name)
        warn_of_left_out(count, count + len(found), name)
        return found
    for attribute in ("gt_boxes", "bboxes", "xyxy"):  # detectron2, mmengine, supervision
        if hasattr(target, attribute):
            boxes = getattr(target, attribute)
            inner = _of_object(boxes, name)
            return boxes if inner is None else inner
    boxes = getattr(target, "tensor", None)  # detectron2's Boxes, mmdet's HorizontalBoxes
    if isinstance(boxes, Tensor):
        if boxes.ndim == 2 and boxes.shape[1] == 5:
            raise InvalidRequest(
                name, f"are rotated boxes ({type(target).__name__}); masks need upright ones"
            )
        return boxes
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
