"""Pictures and boxes that the page shows: drawn streets, and the images of a data set."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
from PIL import Image

from cass_cli.coco import CocoFile
from cass_cli.figures import load_picture
from cass_cli.progress import load_coco
from cass_core.errors import InvalidRequest
from cass_core.synthetic import street_scene

_QUALITY = 90


class Scenes(Protocol):
    """Pictures with boxes, by number."""

    def scene(self, i: int) -> dict[str, Any]:
        """What the page has to know: ``id``, ``size`` (H, W), ``boxes``, ``labels``, ``picture``.

        Raises:
            InvalidRequest: there is no such scene.
        """

    def picture(self, i: int) -> bytes:
        """The picture as JPEG.

        Raises:
            InvalidRequest: there is no such scene, or its picture cannot be used.
        """


@dataclass(frozen=True, slots=True)
class DataSet:
    """A COCO file and, if there are any, its pictures."""

    path: Path
    file: CocoFile
    images: Path | None

    @classmethod
    def read(cls, path: Path, images: Path | None, skip_invalid: bool) -> DataSet:
        """The images of a file.

        Raises:
            InvalidRequest: the file cannot be used, or has no image.
        """
        file = load_coco(path, skip_invalid=skip_invalid, categories=True)
        if not file.image_ids:
            raise InvalidRequest("--annotations", f"{path} has no image")
        return cls(path, file, images)

    def facts(self) -> dict[str, Any]:
        """What the page knows of it from the start."""
        return {"file": str(self.path), "count": len(self.file.image_ids)}

    def scene(self, i: int) -> dict[str, Any]:
        """Image i without its picture; see `Scenes`."""
        self._require(i)
        first, last = self.file.offsets[i], self.file.offsets[i + 1]
        return {
            "id": str(self.file.image_ids[i]),
            "size": self.file.size(i),
            "boxes": self.file.xyxy[first:last].tolist(),
            "labels": [self.file.class_names[label] for label in self.file.labels[first:last]],
            "picture": self.images is not None,
        }

    def picture(self, i: int) -> bytes:
        """The picture of image i as JPEG; see `Scenes`."""
        self._require(i)
        file = self.file
        pixels = load_picture(self.images, file.file_names[i], file.size(i), file.image_ids[i])
        if pixels is None:
            raise InvalidRequest("--images", "are needed for pictures")
        return _jpeg(pixels)

    def _require(self, i: int) -> None:
        if not 0 <= i < len(self.file.image_ids):
            raise InvalidRequest("image", f"there are {len(self.file.image_ids)}, not {i + 1}")


class Streets:
    """Drawn streets, as many as there are seeds."""

    def scene(self, i: int) -> dict[str, Any]:
        """The street of seed i without its picture."""
        drawn = street_scene(i)
        return {
            "id": f"street {i + 1}",
            "size": drawn.image.shape[:2],
            "boxes": drawn.boxes.tolist(),
            "labels": drawn.labels,
            "picture": True,
        }

    def picture(self, i: int) -> bytes:
        """Its picture as JPEG."""
        return _jpeg(street_scene(i).image)


def _jpeg(pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
