"""Reads images and boxes of a COCO detection file, as compact arrays and with precise errors.

The file is parsed as a stream: memory grows with the number of images and boxes (a few dozen
bytes each), not with the file, whose segmentations are usually the bulk of it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import numpy.typing as npt

from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import MAX_SIDE


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The images of a file, in its order, and their boxes.

    Attributes:
        image_ids: as in the file, all distinct.
        file_names: name of each image's file; empty where the file has none.
        sizes: ``[N, 2]`` int64, height and width in pixels.
        xyxy: ``[M, 4]`` float32 boxes in pixels, those of image i after those of image i - 1.
        offsets: ``[N + 1]``: image i has ``xyxy[offsets[i]:offsets[i + 1]]``.
    """

    image_ids: list[int | str]
    file_names: list[str]
    sizes: npt.NDArray[np.int64]
    xyxy: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]

    def boxes(self, first: int, last: int) -> BoxBatch:
        """The boxes of images ``first`` to ``last - 1``."""
        offsets = self.offsets[first : last + 1]
        return BoxBatch(self.xyxy[offsets[0] : offsets[-1]], np.diff(offsets))

    def index(self, image_id: str) -> int:
        """Position of the image with this id, given as text.

        Raises:
            InvalidRequest: there is none.
        """
        for i, known in enumerate(self.image_ids):
            if str(known) == image_id:
                return i
        raise InvalidRequest("image", f"{image_id!r} is not the id of an image in the file")


def read_coco(path: Path) -> CocoFile:
    """Read a COCO object-detection file. Crowd regions (``iscrowd``: 1) are left out.

    Args:
        path: a JSON file with ``images`` (``id``, ``height``, ``width``, maybe ``file_name``) and
            ``annotations`` (``image_id``, ``bbox`` as x, y, width, height in pixels).

    Raises:
        InvalidRequest: it is not such a file; the key and the entry are named, as in
            ``annotations[17].bbox``.
    """
    places: dict[int | str, int] = {}
    names: list[str] = []
    sizes = array("q")
    for i, image in enumerate(_entries(path, "images")):
        entry = f"images[{i}]"
        image_id = _id(image, entry, "id")
        if image_id in places:
            raise InvalidRequest(f"{entry}.id", f"{image_id!r} stands there twice")
        places[image_id] = i
        sizes.extend(_side(image, entry, side) for side in ("height", "width"))
        name = image.get("file_name", "")
        if not isinstance(name, str):
            raise InvalidRequest(f"{entry}.file_name", "must be text")
        names.append(name)
    owners, corners = array("q"), array("d")
    for i, annotation in enumerate(_entries(path, "annotations")):
        entry = f"annotations[{i}]"
        image_id = _id(annotation, entry, "image_id")
        if image_id not in places:
            raise InvalidRequest(f"{entry}.image_id", f"{image_id!r} is the id of no image")
        x, y, width, height = _bbox(annotation, entry)
        if annotation.get("iscrowd"):
            continue
        owners.append(places[image_id])
        corners.extend((x, y, x + width, y + height))
    owner = np.frombuffer(owners, np.int64) if owners else np.empty(0, np.int64)
    xyxy = np.frombuffer(corners, np.float64) if corners else np.empty(0)
    order = np.argsort(owner, kind="stable")
    offsets = np.zeros(len(places) + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=len(places)), out=offsets[1:])
    return CocoFile(
        image_ids=list(places),
        file_names=names,
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        xyxy=xyxy.reshape(-1, 4)[order].astype(np.float32),
        offsets=offsets,
    )


def _entries(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects of a top-level list, one by one."""
    seen = False
    try:
        with path.open("rb") as file:
            for i, entry in enumerate(ijson.items(file, f"{key}.item", use_float=True)):
                seen = True
                if not isinstance(entry, dict):
                    raise InvalidRequest(f"{key}[{i}]", "must be an object")
                yield entry
        if not seen and not _is_list(path, key):
            raise InvalidRequest(key, "is missing, or is not a list")
    except ijson.JSONError as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise InvalidRequest(path.name, f"is not JSON ({reason})") from error


def _is_list(path: Path, key: str) -> bool:
    with path.open("rb") as file:
        return any(
            prefix == key and event == "start_array" for prefix, event, _ in ijson.parse(file)
        )


def _id(entry: dict[str, Any], name: str, key: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidRequest(f"{name}.{key}", "must be a whole number or text")
    return value


def _side(entry: dict[str, Any], name: str, key: str) -> int:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
        raise InvalidRequest(f"{name}.{key}", f"must be a whole number of pixels, got {value!r}")
    return value


def _bbox(entry: dict[str, Any], name: str) -> list[float]:
    value = entry.get("bbox")
    if (
        not isinstance(value, list)
        or len(value) != 4
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value)
        # Sums of two must stay finite in float32.
        or not all(math.isfinite(v) and abs(v) < 1e30 for v in value)
    ):
        raise InvalidRequest(f"{name}.bbox", "must be four numbers: x, y, width, height")
    if value[2] < 0 or value[3] < 0:
        raise InvalidRequest(f"{name}.bbox", "has a negative width or height")
    return [float(v) for v in value]
