"""Writes masks and weights of any number of images to one compressed .npz, in bounded memory."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cass_cli.files import whole_file

# Of compressed weights, before they go to the disk until the masks are written.
_MOST_BYTES = 1 << 26


@contextmanager
def mask_file(
    path: Path,
    image_ids: Sequence[int | str],
    shapes: npt.NDArray[np.int64],
    dtype: str,
) -> Iterator[Callable[[npt.NDArray[Any], npt.NDArray[np.float32]], None]]:
    """A function that appends masks and weights ``[K, n_y, n_x]`` of the next K images.

    The file appears when the context ends well, and not at all otherwise. Its arrays, to be read
    with `numpy.load`:

    - ``image_ids`` ``[N]``: as in the annotation file; text if any is text or needs over 64 bits;
    - ``shapes`` ``[N, 2]`` int64: n_y and n_x of each mask;
    - ``masks``: ``[N, n_y, n_x]`` where all masks have one shape; else one flat array, mask i
      being ``masks[offsets[i]:offsets[i + 1]].reshape(shapes[i])``;
    - ``weights`` float32, likewise;
    - ``offsets`` ``[N + 1]`` int64.

    Args:
        path: the file to write.
        image_ids: ids of the N images.
        shapes: ``[N, 2]``, the shape of each mask.
        dtype: NumPy dtype of the masks.
    """
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
    small = {"image_ids": _id_array(image_ids), "shapes": shapes, "offsets": offsets}
    alike = len(shapes) > 0 and bool((shapes == shapes[0]).all())
    shape = (len(shapes), *shapes[0].tolist()) if alike else (int(offsets[-1]),)
    stored = np.dtype(dtype)
    with (
        whole_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
        tempfile.SpooledTemporaryFile(_MOST_BYTES) as kept,
    ):
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        # An archive takes one array after the other, and weights come beside the masks.
        with (
            _array_member(archive, "masks", stored, shape) as member,
            gzip.GzipFile(fileobj=kept, mode="wb", compresslevel=1) as beside,
        ):

            def append(masks: npt.NDArray[Any], weights: npt.NDArray[np.float32]) -> None:
                member.write(masks.astype(stored, copy=False).tobytes())
                beside.write(weights.tobytes())

            yield append
        kept.seek(0)
        with (
            _array_member(archive, "weights", np.dtype(np.float32), shape) as member,
            gzip.GzipFile(fileobj=kept, mode="rb") as beside,
        ):
            shutil.copyfileobj(beside, member)


@contextmanager
def _array_member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array of the archive, of which the header is written and the values are not."""
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    # Its size is not known to zipfile in advance, and may pass 4 GiB.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _id_array(image_ids: Sequence[int | str]) -> npt.NDArray[Any]:
    if all(isinstance(i, int) for i in image_ids):
        for kind in (np.int64, np.uint64):
            try:
                return np.array(image_ids, kind)
            except OverflowError:
                continue
    return np.array([str(i) for i in image_ids])
