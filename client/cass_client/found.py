"""Found: the boxes of one image with what is known of their form; and a batch of such, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cass_client.boxes import refuse_far, refuse_normalized, to_corners
from cass_core.arrays import is_tensor
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import Sizes, image_sizes

Region = tuple[float, float, float, float]
"""Left, top, height and width in pixels: where the picture is in a padded image."""


class Form(NamedTuple):
    """What the user says of boxes that do not say it themselves.

    Attributes:
        box_format: ``xyxy``, ``xywh`` or ``cxcywh``; None if nothing was said, which is ``xyxy``.
        normalized: whether they are shares of their image; None if nothing was said: pixels, but
            not if they look normalised.
    """

    box_format: str | None = None
    normalized: bool | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The boxes of one image.

    Attributes:
        values: ``[N, 4]``, or None.
        box_format: their format, unless they are a tensor that says its own.
        normalized: as in `Form`.
        size: (height, width) of the picture that normalised boxes are shares of, if the target
            says it.
        strict: whether a size that is neither the image's nor its picture's is an error; otherwise
            it is taken for one of before the image was resized.
    """

    values: Any
    box_format: str = "xyxy"
    normalized: bool | None = None
    size: tuple[int, int] | None = None
    strict: bool = False


def pack_boxes(
    found: Sequence[Found], sizes: Sequence[Any], regions: Sequence[Region | None] | None = None
) -> tuple[BoxBatch, Sizes]:
    """The boxes of a batch in pixels, and the images' sizes.

    Args:
        found: one entry an image.
        sizes: (H, W) of each image, or one for all.
        regions: where the pictures are in the images, if the batch says so.

    Raises:
        InvalidRequest: a box is none, or boxes look normalised or far outside their images.
    """
    checked = np.broadcast_to(image_sizes(sizes, len(found)), (len(found), 2))
    is_plain = [entry.normalized is None for entry in found]
    if any(is_plain):
        pairs = zip(found, is_plain, strict=True)
        refuse_normalized([_numbers(e.values) if plain else () for e, plain in pairs], checked)
    boxes = []
    for i, entry in enumerate(found):
        values = entry.values
        if values is not None and (entry.normalized or entry.box_format != "xyxy"):
            region = None
            if entry.normalized:
                region = _region(entry, i, checked[i].tolist(), regions[i] if regions else None)
            values = to_corners(values, f"boxes[{i}]", entry.box_format, region)
        boxes.append(values)
    try:
        batch = BoxBatch.from_list(boxes)
    except InvalidRequest as error:
        if "is smaller than" not in error.reason:
            raise
        hint = "set box_format if these are not, and normalized=True for shares of the image"
        raise InvalidRequest(error.field, f"{error.reason}; {hint}") from None
    if any(entry.normalized is not False for entry in found):
        refuse_far(batch, checked)
    return batch, checked


def _region(entry: Found, image: int, size: list[float], region: Region | None) -> Region:
    """Of which normalised boxes are shares: the whole image, or the picture in a padded one."""
    height, width = size
    picture = (0.0, 0.0, height, width) if region is None else region
    if entry.size is None or entry.size == picture[2:]:
        return picture
    if entry.size == (height, width):
        return 0.0, 0.0, height, width
    if not entry.strict:
        return picture
    of_picture = "" if region is None else f", its picture {picture[2]:g} x {picture[3]:g}"
    raise InvalidRequest(
        f"boxes[{image}]",
        f"are shares of {entry.size[0]} x {entry.size[1]} pixels, as the target's 'size' says, but "
        f"the image has {height:g} x {width:g}{of_picture}: bring 'size' up to date, add a "
        "pixel_mask if it was padded, or set normalized=True if they are shares of the whole image",
    )


def _numbers(values: Any) -> Any:
    """Boxes as an array; nothing of what is none, which is refused later."""
    try:
        array = np.asarray(values.detach().cpu().double() if is_tensor(values) else values, float)
    except (TypeError, ValueError, RuntimeError):
        return ()
    return array if array.ndim == 2 else ()
