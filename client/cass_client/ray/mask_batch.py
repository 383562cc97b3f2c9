"""MaskBatch: a class for Ray Data's `map_batches` that adds a column of soft target masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cass_client.arguments import loader_inputs
from cass_client.boxes import BoxFormat, check_format
from cass_client.client import CassClient
from cass_client.image_boxes import ImageBoxes, pack_boxes
from cass_client.notices import warn_without_patch
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import Sizes
from cass_core.specs import MaskSpec, check_flag


class MaskBatch:
    """Adds the masks of a batch, by one request.

    For ``dataset.map_batches(MaskBatch, fn_constructor_kwargs=dict(...), concurrency=N)``: Ray
    makes one in each worker process, where it keeps its client as long as the worker lives. Batches
    must be NumPy's, which is Ray's default. Needs Ray only where it is given to Ray.

    Args:
        target: the server, as for `CassClient`; on a cluster ``ray:NAME``, or an address that all
            nodes reach.
        feature_map: (h, w) in cells, or a list of them for several levels.
        spec: how masks are made.
        dtype: of the masks: ``float32``, ``float16`` or ``uint8``.
        image_size: (H, W) in pixels of all images, or the names of the columns that hold the height
            and the width of each.
        boxes: the column of boxes: a list (or an array) of four numbers for each box, empty or null
            for an image without boxes.
        box_format: theirs, ``xyxy``, ``xywh`` or ``cxcywh``.
        normalized: whether they are shares of their image's width and height; False says that they
            are pixels, however they look. By default pixels, and a batch is refused if all its
            boxes lie within [0, 1], or many far outside their images.
        mask: the column of masks; those of several levels are ``mask_0``, ``mask_1`` and so on.
        client_options: as for `CassClient`: ``timeout``, ``tls``, ``token``, ``fallback``...

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> add_masks = MaskBatch("local:", (4, 4), image_size=(32, 32))
        >>> batch = add_masks({"boxes": np.array([[[8, 8, 24, 24]]], np.float32)})
        >>> batch["mask"].shape, batch["mask"][0, 1].tolist()[1]
        ((1, 4, 4), 1.0)
    """

    def __init__(
        self,
        target: str,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        dtype: Any = "float32",
        image_size: tuple[int, int] | tuple[str, str] = ("height", "width"),
        boxes: str = "boxes",
        box_format: BoxFormat = "xyxy",
        normalized: bool | None = None,
        mask: str = "mask",
        **client_options: Any,
    ) -> None:
        by_column = isinstance(image_size, tuple | list) and all(
            isinstance(side, str) for side in image_size
        )
        if image_size is None or (by_column and len(image_size) != 2):
            raise InvalidRequest("image_size", "must be (H, W), or the names of two columns")
        # Found out here, not by the first batch.
        size = None if by_column else image_size
        inputs = loader_inputs([None], size, feature_map, spec, dtype)
        self._client = CassClient(target, **client_options)
        self._feature_maps = inputs.maps
        self._spec = spec
        self._dtype = inputs.dtype
        self._image_size = image_size
        self._by_column = by_column
        self._boxes = boxes
        check_format(box_format)
        self._box_format = box_format
        self._normalized = None if normalized is None else check_flag(normalized, "normalized")
        self._columns = (
            [mask] if inputs.single else [f"{mask}_{i}" for i in range(len(inputs.maps))]
        )

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The batch with its masks, ``[B, n_y, n_x]`` for each level.

        Raises:
            InvalidRequest: a column is missing, is not of the form, or is there already; named
                like ``boxes[3]``: row 3 of the batch.
            CassError: the server could not answer; see `CassClient.generate_mask`.
        """
        for column in self._columns:
            if column in batch:
                raise InvalidRequest("mask", f"the batch has a column {column!r} already")
        rows = _column(batch, self._boxes)
        boxes, sizes = self._packed(rows, self._sizes(batch, len(rows)))
        masks = self._client.generate_mask(
            boxes, sizes, self._feature_maps, self._spec, dtype=self._dtype
        )
        warn_without_patch(boxes, sizes, self._feature_maps, self._spec)
        return {**batch, **dict(zip(self._columns, masks, strict=True))}

    def _sizes(self, batch: Mapping[str, npt.NDArray[Any]], images: int) -> Any:
        """(H, W) of each image."""
        if not self._by_column:
            return [self._image_size] * images
        return np.stack([_sides(batch, str(name)) for name in self._image_size], axis=1)

    def _packed(self, rows: npt.NDArray[Any], sizes: Any) -> tuple[BoxBatch, Sizes]:
        """Boxes as Arrow gives them: by image an array of arrays, or null."""
        # An array of objects says nothing of what is in it; a list of arrays can be stacked.
        lists = [
            row.tolist() if isinstance(row, np.ndarray) and row.dtype == object else row
            for row in rows
        ]
        try:
            images = [ImageBoxes(row, self._box_format, self._normalized) for row in lists]
            packed = pack_boxes(images, sizes)
        except InvalidRequest as error:  # of `boxes`, whatever the column is called
            if not error.field.startswith("boxes"):
                raise
            field = self._boxes + error.field.removeprefix("boxes")
            raise InvalidRequest(field, error.reason) from None
        return packed.boxes, packed.sizes


def _column(batch: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    if name not in batch:
        columns = ", ".join(map(repr, batch)) or "none"
        raise InvalidRequest(name, f"there is no such column; the columns are: {columns}")
    return batch[name]


def _sides(batch: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.float64]:
    """Heights or widths; where null, the column has no numbers or NaN."""
    sides = np.asarray(_column(batch, name))
    if sides.dtype == object:  # text and truth values, which NumPy would convert
        numbers = (int, float, np.integer, np.floating, np.ndarray, type(None))
        for i, side in enumerate(sides):
            if isinstance(side, bool) or not isinstance(side, numbers):
                raise InvalidRequest(f"{name}[{i}]", f"must be a number, got {side!r}")
    elif sides.dtype.kind not in "iuf":
        raise InvalidRequest(name, f"must be a number in each row, got {sides.dtype}")
    try:
        pixels = np.asarray(sides, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(name, "must be a number in each row") from None
    if pixels.ndim != 1:
        raise InvalidRequest(name, f"must be a number in each row, got {list(pixels.shape[1:])}")
    bad = np.flatnonzero(~(np.isfinite(pixels) & (pixels > 0)))
    if bad.size:
        raise InvalidRequest(f"{name}[{bad[0]}]", f"must be above 0, got {pixels[bad[0]]}")
    return pixels
