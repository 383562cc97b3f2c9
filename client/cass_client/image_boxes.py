"""ImageBoxes: the boxes of one image with what is known of their form; and a batch, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cass_client.boxes import refuse_far, refuse_normalized, to_corners
from cass_core.arrays import is_tensor, to_host
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
class ImageBoxes:
    """The boxes of one image.

    Attributes:
        values: ``[N, 4]``, or None.
        box_format: their format, unless they are a tensor that says its own.
        normalized: as in `Form`.
        size: (height, width) of the picture without padding, of which normalised boxes are shares,
            if the target says it.
        strict: whether a size that is neither the image's nor its picture's is an error; otherwise
            it is taken for one of before the image was resized.
        ignored: arrays ``[K, 4]`` of the same form: crowds and what else is no single object.
    """

    values: Any
    box_format: str = "xyxy"
    normalized: bool | None = None
    size: tuple[int, int] | None = None
    strict: bool = False
    ignored: tuple[Any, ...] = ()


class PackedBoxes(NamedTuple):
    """The boxes of a batch in pixels, for a request.

    Attributes:
        boxes: those of objects.
        sizes: ``[B, 2]``, height and width of the images.
        ignore: the ignored boxes of each image; None if there are none.
        valid_region: ``[B, 4]`` float32, x1, y1, x2, y2 of the picture in each image; None if no
            image is padded, as far as is known.
    """

    boxes: BoxBatch
    sizes: Sizes
    ignore: BoxBatch | None
    valid_region: npt.NDArray[np.float32] | None


def pack_boxes(
    images: Sequence[ImageBoxes],
    sizes: Sequence[Any],
    regions: Sequence[Region | None] | None = None,
) -> PackedBoxes:
    """The boxes of a batch in pixels, with what is ignored and what is padding.

    Args:
        images: one entry an image.
        sizes: (H, W) of each image, or one for all.
        regions: where the pictures are in the images, if the batch says so.

    Raises:
        InvalidRequest: a box is none, or boxes look normalised or far outside their images.
    """
    checked = np.broadcast_to(image_sizes(sizes, len(images)), (len(images), 2))
    is_plain = [entry.normalized is None for entry in images]
    if any(is_plain):
        pairs = zip(images, is_plain, strict=True)
        refuse_normalized([_numbers(e.values) if plain else () for e, plain in pairs], checked)
    boxes, ignored, valid = [], [], []
    for i, entry in enumerate(images):
        size, values, shares_of = checked[i].tolist(), entry.values, None
        said = regions[i] if regions else None
        if entry.normalized:
            shares_of = _region(entry, i, size, said)
        if values is not None and (entry.normalized or entry.box_format != "xyxy"):
            values = to_corners(values, f"boxes[{i}]", entry.box_format, shares_of)
        boxes.append(values)
        ignored.append([
            to_corners(part, f"ignore[{i}]", entry.box_format, shares_of) for part in entry.ignored
        ])  # fmt: skip
        valid.append(_picture(entry, size, said))
    try:
        batch = BoxBatch.from_list(boxes)
    except InvalidRequest as error:
        if "is smaller than" not in error.reason:
            raise
        hint = "set box_format if these are not, and normalized=True for shares of the image"
        raise InvalidRequest(error.field, f"{error.reason}; {hint}") from None
    if any(entry.normalized is not False for entry in images):
        refuse_far(batch, checked)
    return PackedBoxes(batch, checked, _ignored(ignored), _valid_region(valid, checked))


def _ignored(parts: Sequence[Sequence[Any]]) -> BoxBatch | None:
    host = [[np.asarray(to_host(part)[0]) for part in of_image] for of_image in parts]
    rows = [np.concatenate([np.empty((0, 4), np.float32), *of_image]) for of_image in host]
    if not any(map(len, rows)):
        return None
    try:
        return BoxBatch.from_list(rows)
    except InvalidRequest as error:
        field = f"ignore{error.field.removeprefix('boxes')}"
        raise InvalidRequest(field, error.reason) from None


def _picture(entry: ImageBoxes, size: list[float], said: Region | None) -> Region:
    """Where the picture is in an image: where the batch says, or else at its upper left."""
    height, width = size
    if said is not None:
        return said
    # Of shares no size is that of the padded image's scale: it may be from before a resizing.
    canvas = getattr(entry.values, "canvas_size", None)
    found = None if entry.normalized else entry.size or canvas
    if found is None or found[0] > height or found[1] > width:
        return 0.0, 0.0, height, width
    return 0.0, 0.0, float(found[0]), float(found[1])


def _valid_region(pictures: Sequence[Region], sizes: Sizes) -> npt.NDArray[np.float32] | None:
    region = np.array(pictures, np.float64).reshape(-1, 4)
    corner, extent = region[:, :2], region[:, 2:]
    if not corner.any() and (extent == sizes).all():
        return None
    return np.concatenate([corner, corner + extent[:, ::-1]], axis=1).astype(np.float32)


def _region(entry: ImageBoxes, image: int, size: list[float], region: Region | None) -> Region:
    """Of which normalised boxes are shares: the whole image, or the picture in a padded one."""
    height, width = size
    # One that is padding alone has no picture for boxes to be shares of.
    picture = region if region is not None and region[2] else (0.0, 0.0, height, width)
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
