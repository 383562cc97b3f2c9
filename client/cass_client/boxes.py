"""Boxes in the forms that data sets and detectors have, as x1, y1, x2, y2 in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cass_core.arrays import Array, corners, from_host, is_tensor
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import Sizes, same_image_size
from cass_core.specs import check_flag

BoxFormat: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
"""Corners; corner, width, height; centre, width, height."""

ONE = 1.001
"""What normalised boxes may reach: a rounding beyond 1."""

# On smaller images boxes may well be a pixel.
_LEAST_SIDE = 16
# A box that is wholly so much of the image beyond it, and which share of a batch is too many.
_FAR, _SHARE = 0.1, 0.25


def xyxy_boxes(
    boxes: Any, box_format: BoxFormat = "xyxy", *, normalized: bool = False, image_size: Any = None
) -> Any:
    """Boxes of one image as x1, y1, x2, y2 in pixels, for `CassClient.generate_mask`.

    Args:
        boxes: ``[N, 4]``, a NumPy array, nested lists or a torch tensor.
        box_format: ``xyxy``; ``xywh`` (corner, width, height), as in COCO; ``cxcywh`` (centre,
            width, height), as DETR-like detectors and YOLO have them.
        normalized: whether they are shares of the image's width and height.
        image_size: (H, W) in pixels, needed for normalised boxes.

    Returns:
        ``[N, 4]`` float32, as an array, or as a tensor on the device of a tensor.

    Raises:
        InvalidRequest: an argument cannot be used, or a width or height is negative.

    Example:
        >>> xyxy_boxes([[0.5, 0.5, 0.25, 0.5]], "cxcywh", normalized=True, image_size=(40, 80))
        array([[30., 10., 50., 30.]], dtype=float32)
    """
    check_format(box_format)
    region = None
    if check_flag(normalized, "normalized"):
        if image_size is None:
            raise InvalidRequest("image_size", "is needed for normalised boxes")
        region = (0.0, 0.0, *same_image_size(image_size))
    return to_corners(boxes, "boxes", box_format, region)


def check_format(box_format: Any) -> None:
    """Rejects what is no format of boxes."""
    if box_format not in get_args(BoxFormat):
        formats = ", ".join(get_args(BoxFormat))
        raise InvalidRequest("box_format", f"must be one of {formats}, got {box_format!r}")


def to_corners(
    boxes: Any, name: str, box_format: str, region: tuple[float, float, float, float] | None
) -> Any:
    """``[N, 4]`` float32 corners in pixels.

    Args:
        boxes: ``[N, 4]``.
        name: what errors name.
        box_format: theirs, unless they are a tensor that says its own, as torchvision's do.
        region: left, top, height and width, in pixels, of the picture that normalised boxes are
            shares of; None for boxes in pixels.
    """
    values = _host_values(boxes, name)
    if is_tensor(boxes) and getattr(boxes, "format", None) is not None:
        box_format = "xyxy"  # by `_host_values`
    first, second = values[:, :2], values[:, 2:]
    if box_format != "xyxy":
        negative = (second < 0).any(axis=1)
        if negative.any():
            raise InvalidRequest(
                f"{name}[{int(np.argmax(negative))}]",
                f"has a negative width or height; box_format is {box_format!r}",
            )
        if box_format == "cxcywh":
            first = first - second / 2
        second = first + second
    if region is not None:
        left, top, height, width = region
        first, second = (part * [width, height] + [left, top] for part in (first, second))
    found = np.concatenate([first, second], axis=1).astype(np.float32)
    if not is_tensor(boxes):
        return found
    tensor: Any = from_host(found, "float32", as_tensor=True)
    return tensor.to(boxes.device)


def _host_values(boxes: Any, name: str) -> Array:
    """``[N, 4]`` float64; a tensor that says its format as corners."""
    if is_tensor(boxes):
        if boxes.is_complex() or str(boxes.layout) != "torch.strided":
            raise InvalidRequest(name, "must be dense and of real numbers")
        array = corners(boxes, name).cpu().double().resolve_neg().numpy()
    else:
        if np.ma.is_masked(boxes):
            raise InvalidRequest(name, "has masked values")
        try:
            array = np.asarray(boxes)
            if array.dtype.kind not in "fiu" and array.size:
                raise TypeError
        except (TypeError, ValueError):
            raise InvalidRequest(name, "must be an array of numbers of the shape [N, 4]") from None
    if 0 in array.shape and array.ndim <= 2:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise InvalidRequest(name, f"must have the shape [N, 4], got {list(array.shape)}")
    return array.astype(np.float64)


def refuse_normalized(boxes: Sequence[Any], sizes: Sizes) -> None:
    """Rejects a batch whose boxes all lie within [0, 1] of images of many pixels.

    Args:
        boxes: an array an image as they came, or () for an image that is not looked at.
        sizes: ``[B, 2]``.
    """
    first = None
    for i, values in enumerate(boxes):
        if not np.size(values):  # [[]] has one row of no numbers
            continue
        largest, least = values.max(), values.min()
        # Zeros are no boxes that anybody normalised.
        if not 0 <= least <= largest <= ONE or largest == 0:
            return
        if min(sizes[i]) > _LEAST_SIDE and first is None:
            first = i
    if first is not None:
        height, width = map(int, sizes[first])
        raise InvalidRequest(
            f"boxes[{first}]",
            f"and all others of the batch lie within [0, 1], though the image has {height} x "
            f"{width} pixels: set normalized=True, and box_format where they are not xyxy, or "
            "normalized=False if these are pixels",
        )


def refuse_far(boxes: BoxBatch, sizes: Sizes) -> None:
    """Rejects a batch of which many boxes lie far outside their images.

    Args:
        boxes: corners in pixels.
        sizes: ``[B, 2]``.
    """
    xyxy = np.asarray(boxes.xyxy.cpu() if is_tensor(boxes.xyxy) else boxes.xyxy)
    if not len(xyxy):
        return
    own = np.repeat(sizes[:, ::-1], boxes.counts, axis=0)
    beyond = (xyxy[:, 2:] < -_FAR * own) | (xyxy[:, :2] > (1 + _FAR) * own)
    far = beyond[:, 0] | beyond[:, 1]
    count = int(np.count_nonzero(far))
    if count < 2 or count < _SHARE * len(far):
        return
    box = int(np.argmax(far))
    image = int(np.searchsorted(boxes.offsets, box, side="right")) - 1
    corners_text = ", ".join(f"{value:g}" for value in xyxy[box])
    height, width = map(int, sizes[image])
    raise InvalidRequest(
        f"boxes[{image}][{box - int(boxes.offsets[image])}]",
        f"({corners_text}) lies far outside its image of {height} x {width} pixels (H x W), as do "
        f"{count} of the batch's {len(far)} boxes: are the axes swapped, or the image resized "
        "without its boxes? Set box_format where they are not xyxy, or normalized=False if this "
        "is meant",
    )
