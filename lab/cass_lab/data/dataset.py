"""A COCO file and its pictures as arrays: decoded once, stretched to one size, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cass_cli.coco import CocoFile
from cass_cli.figures import load_picture, picture_path, stretch, stretch_boxes
from cass_cli.files import whole_file
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

    def first(self, count: int) -> Dataset:
        """The first images alone, or all if there are no more."""
        count = min(count, len(self))
        boxes = int(self.offsets[count])
        return dataclasses.replace(
            self,
            xyxy=self.xyxy[:boxes],
            offsets=self.offsets[: count + 1],
            labels=self.labels[:boxes],
        )

    def boxes(self, first: int = 0, last: int | None = None) -> BoxBatch:
        """The boxes of images ``first`` to ``last - 1``; by default of all."""
        offsets = self.offsets[first : (len(self) if last is None else last) + 1]
        return BoxBatch(self.xyxy[offsets[0] : offsets[-1]], np.diff(offsets))


def load_datasets(
    files: tuple[CocoFile, CocoFile],
    images: Path,
    size: tuple[int, int],
    cache: Path,
    picture_done: Callable[[], None] = lambda: None,
) -> tuple[Dataset, Dataset]:
    """Train and test data; pictures that the cache has are not decoded again.

    Args:
        files: the two annotation files, read with their categories.
        images: folder with the pictures of both.
        size: (H, W) in pixels that every picture is stretched to.
        cache: folder to keep the decoded pictures in, 3 bytes a pixel.
        picture_done: called for each picture, decoded now or before.

    Raises:
        InvalidRequest: a file has no image or no box in one, a picture is missing or broken, or one
            is in both files.
    """
    for option, file in zip(("--train", "--test"), files, strict=True):
        _require_objects(option, file)
    if both := set(files[0].file_names) & set(files[1].file_names):
        raise InvalidRequest("--test", f"{min(both)} is a picture of the training file too")
    names = tuple(sorted({name for file in files for name in file.used_names()}))
    train, test = (_dataset(f, names, images, size, cache, picture_done) for f in files)
    return train, test


def _dataset(
    file: CocoFile,
    names: tuple[str, ...],
    images: Path,
    size: tuple[int, int],
    cache: Path,
    picture_done: Callable[[], None],
) -> Dataset:
    pixels = _cached_pixels(file, images, size, cache, picture_done)
    scale = np.array(size, np.float64) / file.sizes
    xyxy = stretch_boxes(file.xyxy, np.repeat(file.sizes, np.diff(file.offsets), axis=0), size)
    index = {name: k for k, name in enumerate(names)}
    number = np.array([index.get(name, -1) for name in file.class_names], np.int64)
    labels = number[file.labels]
    digest = hashlib.sha256()
    for part in (pixels.stem, xyxy.tobytes(), file.offsets.tobytes(), labels.tobytes(), names):
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    aspect = scale[:, 1] / scale[:, 0]
    change = float(np.maximum(aspect, 1 / aspect).max())
    key = digest.hexdigest()[:16]
    return Dataset(pixels, size, xyxy, file.offsets, labels, names, key, change)


def _require_objects(option: str, file: CocoFile) -> None:
    if not file.image_ids:
        raise InvalidRequest(option, "has no images")
    limit = np.repeat(file.sizes[:, ::-1], np.diff(file.offsets), axis=0)
    if not np.any(np.all((file.xyxy[:, :2] < limit) & (file.xyxy[:, 2:] > 0), axis=1)):
        raise InvalidRequest(option, "has no boxes in its pictures")


def _cached_pixels(
    file: CocoFile,
    images: Path,
    size: tuple[int, int],
    cache: Path,
    picture_done: Callable[[], None],
) -> Path:
    """The ``.npy`` file with all pictures; its name is a digest of what they were made from."""
    key = hashlib.sha256(repr(size).encode())
    for image_id, name in zip(file.image_ids, file.file_names, strict=True):
        path = picture_path(images, name, image_id)
        key.update(repr((name, hashlib.sha256(path.read_bytes()).hexdigest())).encode())
    target = cache / f"{key.hexdigest()[:16]}.npy"
    if target.exists():
        for _ in file.file_names:
            picture_done()
        return target
    cache.mkdir(parents=True, exist_ok=True)
    shape = (len(file.file_names), *size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with whole_file(target) as pixels:
        np.lib.format.write_array_header_1_0(pixels, header)
        for i, (image_id, name) in enumerate(zip(file.image_ids, file.file_names, strict=True)):
            picture = load_picture(images, name, file.size(i), image_id)
            pixels.write(stretch(picture, size).tobytes())
            picture_done()
    return target
