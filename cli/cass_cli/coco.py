"""Reads images and boxes of a COCO detection file, as compact arrays and with precise errors.

The file is parsed as a stream: memory grows with the number of images and boxes (a few dozen
bytes each), not with the file, whose segmentations are usually the bulk of it.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cass_cli import coco_fields as fields
from cass_cli.coco_fields import Id
from cass_cli.json_lists import Entries, read_lists
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.progress import Progress

# An image of at least so many pixels a side has no object, let alone all of them, in its first one.
_LARGE_SIDE = 32


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The images of a file, in its order, and their boxes.

    Attributes:
        image_ids: as in the file, all distinct; whole numbers are integers.
        file_names: name of each image's file; empty where the file has none.
        sizes: ``[N, 2]`` int64, height and width in pixels.
        xyxy: ``[M, 4]`` float32 boxes in pixels, those of image i after those of image i - 1.
        offsets: ``[N + 1]``: image i has ``xyxy[offsets[i]:offsets[i + 1]]``.
        ignored: ``[K, 4]``, likewise, crowd regions (``iscrowd``: 1) and ignored objects
            (``ignore``: 1), which are no boxes of objects.
        ignored_offsets: ``[N + 1]``, likewise.
        labels: ``[M]`` int64 index into ``class_names``.
        class_names: of all categories, all distinct; empty unless requested.
        left_out: how many crowd regions and ignored objects there are, in words; empty for none.
        notes: phrases on what was left out as invalid and on what looks wrong, for the user.
    """

    image_ids: list[Id]
    file_names: list[str]
    sizes: npt.NDArray[np.int64]
    xyxy: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    ignored: npt.NDArray[np.float32]
    ignored_offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    class_names: list[str]
    left_out: str
    notes: list[str]

    def boxes(self, first: int, last: int) -> BoxBatch:
        """The boxes of images ``first`` to ``last - 1``."""
        return _of_images(self.xyxy, self.offsets, first, last)

    def ignored_boxes(self, first: int, last: int) -> BoxBatch:
        """The ignored boxes of images ``first`` to ``last - 1``."""
        return _of_images(self.ignored, self.ignored_offsets, first, last)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i in pixels."""
        return int(self.sizes[i, 0]), int(self.sizes[i, 1])

    def used_names(self) -> set[str]:
        """Names of the classes that any box has."""
        return {self.class_names[label] for label in np.unique(self.labels)}

    def index(self, image_id: str) -> int:
        """Position of the image with this id, given as text.

        Raises:
            InvalidRequest: there is none.
        """
        for i, known in enumerate(self.image_ids):
            if str(known) == image_id:
                return i
        raise InvalidRequest("image", f"{image_id!r} is not the id of an image in the file")


def read_coco(
    path: str | os.PathLike[str],
    *,
    skip_invalid: bool = False,
    categories: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CocoFile:
    """Read a COCO object-detection file.

    Args:
        path: a JSON file, gzipped or not, with ``images`` (``id``, ``height``, ``width``, maybe
            ``file_name``) and ``annotations`` (``image_id``, ``bbox`` as x, y, width, height in
            pixels).
        skip_invalid: leave out images and annotations that cannot be used.
        categories: read ``labels`` and ``class_names``: each box needs a known ``category_id``, or
            any where the file lists no categories.
        limit: read the first images only, and their annotations.
        progress: shows the bytes read.

    Raises:
        InvalidRequest: it is not such a file, or an entry cannot be used; the entry and the key
            are named, as in ``annotations[17].bbox``.
        OSError: it cannot be read.
    """
    path = Path(path)
    return read_lists(
        path, progress, lambda entries: _read(entries, skip_invalid, categories, limit)
    )


def _read(entries: Entries, skip_invalid: bool, categories: bool, limit: int | None) -> CocoFile:
    invalid = fields.Invalid()
    classes = fields.Classes(entries, invalid) if categories else None
    places: dict[Id, int] = {}
    names: list[str] = []
    sizes = array("q")
    for i, image in enumerate(entries("images")):
        with invalid:
            entry = f"images[{i}]"
            fields.require_object(image, entry)
            image_id = fields.identity(image, entry, "id")
            if image_id in places:
                raise InvalidRequest(f"{entry}.id", f"{image_id!r} stands there twice")
            height, width = (fields.side(image, entry, side) for side in ("height", "width"))
            names.append(fields.file_name(image, entry))
            sizes.extend((height, width))
            places[image_id] = len(places)
    if len(set(map(str, places))) < len(places):
        raise InvalidRequest("images", "has two ids that are the same text, such as 1 and '1'")
    taken = len(places) if limit is None else limit
    labels = array("q")
    boxes, ignored = _Boxes(), _Boxes()
    left_out = {"crowd region": 0, "ignored object": 0}
    for i, annotation in enumerate(entries("annotations")):
        with invalid:
            entry = f"annotations[{i}]"
            fields.require_object(annotation, entry)
            image_id = fields.identity(annotation, entry, "image_id")
            if image_id not in places:
                raise InvalidRequest(f"{entry}.image_id", f"{image_id!r} is the id of no image")
            if places[image_id] >= taken:
                continue
            is_crowd = fields.flag(annotation, entry, "iscrowd")
            is_ignored = fields.flag(annotation, entry, "ignore")
            box = fields.corners(annotation, entry)
            if is_crowd or is_ignored:
                ignored.append(places[image_id], box)
                left_out["crowd region" if is_crowd else "ignored object"] += 1
                continue
            label = 0 if classes is None else classes.label(annotation, entry)
            boxes.append(places[image_id], box)
            labels.append(label)
    if invalid.count and not skip_invalid:
        raise invalid.refusal()
    xyxy, owner = boxes.arrays()
    beside, beside_owner = ignored.arrays()
    label_of = np.array(labels, np.int64)
    shapes = np.array(sizes, np.int64).reshape(-1, 2)[:taken]
    dropped: list[str] = []
    if (normalised := _normalised(xyxy, owner, shapes)).any():
        found = [image_id for image_id, bad in zip(places, normalised, strict=False) if bad]
        error = _normalised_error(found, whole=bool(normalised[owner].all()))
        kept = ~normalised[owner]
        if not skip_invalid or not kept.any():
            raise error
        dropped = [
            f"boxes of {len(found)} image{'s' * (len(found) > 1)} left out as invalid: {error}"
        ]
        owner, xyxy, label_of = owner[kept], xyxy[kept], label_of[kept]
        kept = ~normalised[beside_owner]
        beside, beside_owner = beside[kept], beside_owner[kept]
    order, offsets = _grouped(owner, len(shapes))
    ignored_order, ignored_offsets = _grouped(beside_owner, len(shapes))
    return CocoFile(
        image_ids=list(places)[:taken],
        file_names=names[:taken],
        sizes=shapes,
        xyxy=xyxy[order].astype(np.float32),
        offsets=offsets,
        ignored=beside[ignored_order].astype(np.float32),
        ignored_offsets=ignored_offsets,
        labels=label_of[order],
        class_names=[] if classes is None else classes.names,
        left_out=" and ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in left_out.items() if n),
        notes=[
            *([f"{invalid.entries} left out as invalid: {invalid}"] if invalid.count else []),
            *dropped,
            *_doubts(xyxy, shapes[owner]),
        ],
    )


class _Boxes:
    """Boxes in a file's order, and the images that they are of."""

    def __init__(self) -> None:
        self._corners, self._owners = array("d"), array("q")

    def append(self, image: int, box: tuple[float, float, float, float]) -> None:
        self._corners.extend(box)
        self._owners.append(image)

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """``[M, 4]`` corners, and ``[M]``."""
        corners = np.array(self._corners, np.float64).reshape(-1, 4)
        return corners, np.array(self._owners, np.int64)


def _grouped(
    owner: npt.NDArray[np.int64], images: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """An order in which the boxes of each image follow each other, and the images' offsets."""
    offsets = np.zeros(images + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=images), out=offsets[1:])
    return np.argsort(owner, kind="stable"), offsets


def _of_images(
    xyxy: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], first: int, last: int
) -> BoxBatch:
    own = offsets[first : last + 1]
    return BoxBatch(xyxy[own[0] : own[-1]], np.diff(own))


def _normalised(
    xyxy: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether all boxes of an image ``[N]`` lie in its first pixel, and not on a corner of it."""
    reach = np.zeros(len(sizes))
    np.maximum.at(reach, owner, np.abs(xyxy).max(axis=1))
    broken = np.zeros(len(sizes), np.bool_)
    broken[owner[(xyxy % 1).any(axis=1)]] = True
    normalised: npt.NDArray[np.bool_] = (
        broken & (reach <= 1.001) & (sizes.min(axis=1) >= _LARGE_SIDE)
    )
    return normalised


def _normalised_error(image_ids: list[Id], whole: bool) -> InvalidRequest:
    if whole:
        return InvalidRequest(
            "annotations[*].bbox",
            "must be in pixels: all coordinates are in [0, 1], which is normalised",
        )
    more = len(image_ids) - fields.NAMED
    which = ", ".join(map(repr, image_ids[: fields.NAMED]))
    which += f" and {more} more" if more > 0 else ""
    return InvalidRequest(
        "annotations[*].bbox",
        f"must be in pixels: all coordinates of image {which} are in [0, 1], which is normalised "
        "(--skip-invalid leaves such entries out)",
    )


def _doubts(xyxy: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> list[str]:
    """Whether boxes are rather x1, y1, x2, y2 than x, y, width, height.

    Args:
        xyxy: ``[M, 4]``.
        sizes: ``[M, 2]`` height and width of each box's image.
    """
    low, limit = xyxy[:, :2], sizes[:, ::-1]
    last = xyxy[:, 2:] - low
    beyond = int((xyxy[:, 2:] > limit + 1).any(axis=1).sum())
    if not len(xyxy) or 4 * beyond < len(xyxy) or not ((last > low) & (last <= limit)).all():
        return []
    return [
        f"{beyond} of {len(xyxy)} boxes reach beyond their image as x, y, width, height, and all "
        "lie in it as x1, y1, x2, y2: which are they?"
    ]
