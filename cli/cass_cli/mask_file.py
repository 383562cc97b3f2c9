"""Writes masks of any number of images to one compressed .npz, in bounded memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt


class MaskFileWriter:
    """A context manager; the file appears when it ends well, and not at all otherwise.

    The arrays in the file, to be read with `numpy.load`:

    - ``image_ids`` ``[N]``: as in the annotation file; text if any of them is;
    - ``shapes`` ``[N, 2]`` int64: n_y and n_x of each mask;
    - ``masks``: ``[N, n_y, n_x]`` where all masks have one shape; else one flat array, mask i
      being ``masks[offsets[i]:offsets[i + 1]].reshape(shapes[i])``;
    - ``offsets`` ``[N + 1]`` int64.

    Args:
        path: the file to write.
        image_ids: ids of the N images.
        shapes: ``[N, 2]``, the shape of each mask.
        dtype: NumPy dtype of the masks.
    """

    def __init__(
        self,
        path: Path,
        image_ids: Sequence[int | str],
        shapes: npt.NDArray[np.int64],
        dtype: str,
    ) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._ids = np.array(
            image_ids if all(isinstance(i, int) for i in image_ids) else [str(i) for i in image_ids]
        )
        self._shapes = shapes
        self._dtype = np.dtype(dtype)
        self._zip: zipfile.ZipFile
        self._masks: IO[bytes]

    def __enter__(self) -> MaskFileWriter:
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        offsets = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1))]).astype(np.int64)
        small = {"image_ids": self._ids, "shapes": self._shapes, "offsets": offsets}
        for name, array in small.items():
            with self._zip.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        alike = len(self._shapes) > 0 and bool((self._shapes == self._shapes[0]).all())
        shape = (len(self._shapes), *self._shapes[0].tolist()) if alike else (int(offsets[-1]),)
        # Its size is not known to zipfile in advance, and may pass 4 GiB.
        self._masks = self._zip.open("masks.npy", "w", force_zip64=True)
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._masks, header)
        return self

    def write(self, masks: npt.NDArray[Any]) -> None:
        """Append masks ``[K, n_y, n_x]`` of the next K images."""
        self._masks.write(masks.astype(self._dtype, copy=False).tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._masks.close()
            self._zip.close()
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
