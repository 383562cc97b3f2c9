"""A COCO file and its pictures as arrays: decoded once, stretched to one size, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cass_cli.coco import CocoFile, read_coco
from cass_cli.figures import load_picture
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pictures of one size with their boxes. Small enough to be sent to worker processes.

    Attributes:
        pixels_path: a ``.npy`` file, ``[N, H, W, 3]`` uint8 RGB.
        image_size: (H, W) in pixels.
        xyxy: ``[M, 4]`` float32 boxes in pixels of that size, those of image i after those of
            image i - 1.
        offsets: ``[N + 1]``: image i has ``xyxy[offsets[i]:offsets[i + 1]]``.
        labels: ``[M]`` int64 index into ``class_names``.
        class_names: of the train and the test file together, so that both count alike.
        digest: of pixels, boxes and labels: equal digests mean equal data.
        aspect_change: the largest factor by which width : height of a picture became larger or
            smaller when it was stretched; 1 where all kept it.
    """

    pixels_path: Path
    image_size: tuple[int, int]
    xyxy: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    aspect_change: float = 1.0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pictures, mapped into memory: processes share what they read."""
        pixels: npt.NDArray[np.uint8] = np.load(self.pixels_path, mmap_mode="r")
        return pixels

    def image_of(self) -> npt.NDArray[np.int64]:
        """The image of each box ``[M]``."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def boxes(self, first: int = 0, last: int | None = None) -> BoxBatch:
        """The boxes of images ``first`` to ``last - 1``; by default of all."""
        offsets = self.offsets[first : (len(self) if last is None else last) + 1]
        return BoxBatch(self.xyxy[offsets[0] : offsets[-1]], np.diff(offsets))


def load_datasets(
    files: tuple[Path, Path],
    images: Path,
    size: tuple[int, int],
    cache: Path,
    picture_done: Callable[[], None] = lambda: None,
) -> tuple[Dataset, Dataset]:
    """Train and test data; pictures that the cache has are not decoded again.

    Args:
        files: COCO object-detection files of the two.
        images: folder with the pictures of both.
        size: (H, W) in pixels that every picture is stretched to.
        cache: folder to keep the decoded pictures in, 3 bytes a pixel.
        picture_done: called after each picture that had to be decoded.

    Raises:
        InvalidRequest: a file is no such file, has no image or no box in one, a box has no known
            category, a picture is missing, or one is in both files.
    """
    read = [read_coco(path) for path in files]
    for option, path, file in zip(("--train", "--test"), files, read, strict=True):
        _require_objects(option, path, file)
    if both := set(read[0].file_names) & set(read[1].file_names):
        raise InvalidRequest("--test", f"{min(both)} is a picture of the training file too")
    labelled = [read_class_names(path) for path in files]
    names = tuple(sorted({name for names in labelled for name in names}))
    datasets = []
    for path, file in zip(files, read, strict=True):
        pixels = _cached_pixels(file, images, size, cache, picture_done)
        scale = np.array(size, np.float64) / file.sizes
        per_box = np.repeat(scale, np.diff(file.offsets), axis=0)[:, [1, 0, 1, 0]]
        xyxy = (file.xyxy * per_box).astype(np.float32)
        classes = read_class_names(path)
        labels = np.array([names.index(name) for name in classes], np.int64)
        digest = hashlib.sha256()
        for part in (pixels.stem, xyxy.tobytes(), file.offsets.tobytes(), labels.tobytes(), names):
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
        aspect = scale[:, 1] / scale[:, 0]
        datasets.append(
            Dataset(
                pixels,
                size,
                xyxy,
                file.offsets,
                labels,
                names,
                digest.hexdigest()[:16],
                float(np.maximum(aspect, 1 / aspect).max()),
            )
        )
    return datasets[0], datasets[1]


def _require_objects(option: str, path: Path, file: CocoFile) -> None:
    if not file.image_ids:
        raise InvalidRequest(option, f"{path.name} has no images")
    for i, name in enumerate(file.file_names):
        if not name:
            raise InvalidRequest(f"images[{i}].file_name", f"is missing in {path.name}")
    limit = np.repeat(file.sizes[:, ::-1], np.diff(file.offsets), axis=0)
    if not np.any(np.all((file.xyxy[:, :2] < limit) & (file.xyxy[:, 2:] > 0), axis=1)):
        raise InvalidRequest(option, f"{path.name} has no boxes in its pictures")


def read_class_names(path: Path) -> list[str]:
    """The category name of each box, in the order of `read_coco`, which checked the rest."""
    content: dict[str, Any] = json.loads(path.read_text())
    names = {c["id"]: str(c["name"]) for c in content.get("categories", ())}
    position = {image["id"]: i for i, image in enumerate(content["images"])}
    found: list[tuple[int, str]] = []
    for i, annotation in enumerate(content["annotations"]):
        if annotation.get("iscrowd"):
            continue
        category = annotation.get("category_id")
        if category not in names:
            raise InvalidRequest(
                f"annotations[{i}].category_id", f"{category!r} is the id of no category"
            )
        found.append((position[annotation["image_id"]], names[category]))
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def _cached_pixels(
    file: CocoFile,
    images: Path,
    size: tuple[int, int],
    cache: Path,
    picture_done: Callable[[], None],
) -> Path:
    """The ``.npy`` file with all pictures; its name is a digest of what they were made from."""
    key = hashlib.sha256(repr(size).encode())
    for name in file.file_names:
        path = images / name
        if not path.is_file():
            raise InvalidRequest("--images", f"{path} is not a picture")
        key.update(repr((name, hashlib.sha256(path.read_bytes()).hexdigest())).encode())
    target = cache / f"{key.hexdigest()[:16]}.npy"
    if target.exists():
        return target
    from PIL import Image

    cache.mkdir(parents=True, exist_ok=True)
    # Renamed once it is whole: what a killed process leaves is not taken for a cache.
    part = cache / f"{target.stem}.{os.getpid()}.part"
    height, width = size
    pixels = np.lib.format.open_memmap(
        part, "w+", np.uint8, (len(file.file_names), height, width, 3)
    )
    for i, name in enumerate(file.file_names):
        original = (int(file.sizes[i, 0]), int(file.sizes[i, 1]))
        picture = load_picture(images, name, original)
        if original != size:
            picture = np.asarray(
                Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
            )
        pixels[i] = picture
        picture_done()
    pixels.flush()
    del pixels
    os.replace(part, target)
    return target
