"""BoxBatch: the boxes of a batch of images as one flat array and counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cass_core.arrays import Array, Tensorlike, corners, is_tensor, read_only
from cass_core.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

Canvases: TypeAlias = tuple[tuple[int, tuple[int, int]], ...]

_COORDINATES = ("x1", "y1", "x2", "y2")
_FLOAT32 = np.dtype(np.float32)
_LISTS = {list, tuple}
_ARRAYS = {np.ndarray}
_NO_BOXES = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class BoxBatch:
    """Ragged boxes of a batch: the boxes of image i follow those of image i - 1.

    Checked once, here; a function that takes a `BoxBatch` may rely on it. Arrays that are float32
    and contiguous are kept without a copy and must not be changed afterwards. Boxes that lie
    in a device's memory are checked for their shape alone, since reading their values would
    make the host wait for the device.

    Attributes:
        xyxy: ``[M, 4]`` float32, x1, y1, x2, y2 in pixels of the box's image, finite,
            x2 >= x1, y2 >= y1; a NumPy array or a torch tensor. Boxes may reach beyond the
            image.
        counts: ``[B]`` int64, boxes of each image; they add up to M.
        offsets: ``[B + 1]`` int64, made here: the boxes of image i are
            ``xyxy[offsets[i]:offsets[i + 1]]``.
        device_offsets: ``[B + 1]`` int32, the offsets beside boxes in a device's memory, made
            here without waiting for the device; None for boxes in the host's memory.
        canvases: index and canvas size (H, W) of the images whose boxes came with one, as
            torchvision's ``tv_tensors.BoundingBoxes`` do.

    Raises:
        InvalidRequest: named like ``boxes[3][1].x2``: image 3 of the batch, its box 1.

    Example:
        >>> batch = BoxBatch.from_list([[[10, 20, 30, 60]], None])
        >>> batch.counts.tolist(), batch.num_images, batch.num_boxes
        ([1, 0], 2, 1)
    """

    xyxy: Tensorlike
    counts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64] = field(init=False, repr=False)
    device_offsets: torch.Tensor | None = field(init=False, repr=False, default=None)
    canvases: Canvases = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        xyxy = _as_float32(self.xyxy, "boxes.xyxy")
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise InvalidRequest(
                "boxes.xyxy", f"must have the shape [M, 4], got {list(xyxy.shape)}"
            )
        counts = _as_counts(self.counts)
        offsets = np.zeros(counts.shape[0] + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        offsets.flags.writeable = False
        _check_total(int(offsets[-1]), xyxy)
        on_device = None
        if is_tensor(xyxy) and xyxy.device.type != "cpu":
            from cass_core.transfer import upload

            on_device = upload(offsets.astype(np.int32), xyxy.device)
        else:
            _check_values(np.asarray(xyxy), offsets)
        canvases = _canvases(self.xyxy, len(counts)) if is_tensor(xyxy) else ()
        self._fill(xyxy, counts, offsets, on_device, canvases)

    def _fill(
        self,
        xyxy: Tensorlike,
        counts: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        device_offsets: torch.Tensor | None = None,
        canvases: Canvases = (),
    ) -> None:
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "device_offsets", device_offsets)
        object.__setattr__(self, "canvases", canvases)

    def _with(self, canvases: Canvases) -> BoxBatch:
        object.__setattr__(self, "canvases", canvases)
        return self

    @classmethod
    def from_list(cls, boxes: Sequence[Any]) -> BoxBatch:
        """Pack a list with the boxes of each image.

        Args:
            boxes: one entry per image: ``[N_i, 4]`` as a NumPy array, a torch tensor or nested
                lists; None or empty for an image without boxes. torchvision's
                ``tv_tensors.BoundingBoxes`` are converted by their format. If any entry is a
                tensor, the batch holds a tensor on its device.

        Raises:
            InvalidRequest: an entry has another shape, or a box is not one.
        """
        if type(boxes) in _LISTS and set(map(type, boxes)) == _ARRAYS:
            # What a loader gives; the good case is found out as fast as it can be.
            try:
                xyxy = np.concatenate(boxes)
            except ValueError:  # they differ in shape
                xyxy = _NO_BOXES[0]
            if xyxy.dtype is _FLOAT32 and xyxy.shape[1:] == (4,):
                return cls.packed(xyxy, list(map(len, boxes)))
        if isinstance(boxes, str | bytes | dict) or not hasattr(boxes, "__len__"):
            raise InvalidRequest(
                "boxes", f"must be a list with one entry an image, got {type(boxes).__name__}"
            )
        entries = corners(boxes, "boxes") if is_tensor(boxes) else boxes
        tensor = next((entry for entry in entries if is_tensor(entry)), None)
        parts = [_image_boxes(entry, i) for i, entry in enumerate(entries)]
        counts = [part.shape[0] for part in parts]
        if tensor is None:
            return cls.packed(np.concatenate(parts) if parts else _NO_BOXES, counts)
        import torch

        device = tensor.device
        tensors = [p if is_tensor(p) else torch.from_numpy(p) for p in parts]
        batch = cls(torch.cat([t.to(device) for t in tensors]), np.array(counts, np.int64))
        return batch._with(_canvases(boxes, len(parts)))

    @classmethod
    def packed(cls, xyxy: Array, counts: Sequence[int]) -> BoxBatch:
        """The constructor's short way, for arrays whose form is known to be good.

        Args:
            xyxy: ``[M, 4]`` float32, contiguous, in the host's memory.
            counts: whole numbers of at least 0.

        Raises:
            InvalidRequest: as the constructor.
        """
        batch = object.__new__(cls)
        # Faster than NumPy's sum for the images of a batch.
        ends = [0, *accumulate(counts)]
        _check_total(ends[-1], xyxy)
        offsets = np.array(ends, np.int64)
        offsets.flags.writeable = False
        _check_values(xyxy, offsets)
        batch._fill(xyxy, np.array(counts, np.int64), offsets)
        return batch

    @classmethod
    def checked(
        cls,
        xyxy: Tensorlike,
        offsets: npt.NDArray[np.int64],
        device_offsets: torch.Tensor | None = None,
    ) -> BoxBatch:
        """Without checks, from what is known to be as the attributes of these names."""
        batch = object.__new__(cls)
        batch._fill(xyxy, np.diff(offsets), offsets, device_offsets)
        return batch

    @classmethod
    def wrap(cls, boxes: BoxBatch | Sequence[Any]) -> BoxBatch:
        """The argument itself if it is a `BoxBatch`, else `from_list` of it."""
        return boxes if isinstance(boxes, BoxBatch) else cls.from_list(boxes)

    def to(self, device: Any) -> BoxBatch:
        """The same boxes in a device's memory, copied there without waiting for it.

        Make it before a CUDA graph is captured, and keep it as long as the graph.

        Args:
            device: what ``torch.device`` takes.
        """
        import torch

        from cass_core.transfer import upload

        device = torch.device(device)
        if is_tensor(self.xyxy):
            on_device = self.xyxy.to(device, non_blocking=True)
            if on_device is self.xyxy:
                return self
            return BoxBatch(on_device, self.counts)._with(self.canvases)
        return BoxBatch(upload(np.asarray(self.xyxy), device), self.counts)

    @property
    def num_images(self) -> int:
        """B."""
        return int(self.counts.shape[0])

    @property
    def num_boxes(self) -> int:
        """M."""
        return int(self.xyxy.shape[0])


def _canvases(boxes: Any, images: int) -> Canvases:
    entries = [boxes] * images if is_tensor(boxes) else boxes
    found = [getattr(entry, "canvas_size", None) for entry in entries]
    return tuple((i, (size[0], size[1])) for i, size in enumerate(found) if size is not None)


def _image_boxes(entry: Any, image: int) -> Tensorlike:
    name = f"boxes[{image}]"
    if entry is None:
        return _NO_BOXES
    array = _as_float32(entry, name)
    if array.ndim == 2 and array.shape[1] == 4:
        return array
    if 0 in array.shape and array.ndim <= 2:
        return _NO_BOXES
    raise InvalidRequest(name, f"must have the shape [N, 4], got {list(array.shape)}")


def _as_float32(value: Any, name: str) -> Tensorlike:
    if is_tensor(value):
        import torch

        if value.is_complex():
            raise InvalidRequest(name, "must be numbers, got complex ones")
        if value.layout != torch.strided:
            raise InvalidRequest(name, f"must be dense, got {value.layout}")
        if type(value) is not torch.Tensor:
            value = corners(value, name)
        tensor: torch.Tensor = value.detach().to(torch.float32).resolve_neg().contiguous()
        return tensor
    if type(value) is np.ndarray and value.dtype == np.float32 and value.flags.c_contiguous:
        return value
    if np.ma.is_masked(value):
        raise InvalidRequest(name, "has masked values")
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" and array.size:
            raise TypeError
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
            return np.ascontiguousarray(array, np.float32).reshape(array.shape)
    except (TypeError, ValueError):
        raise InvalidRequest(name, "must be an array of numbers of the shape [N, 4]") from None


def _as_counts(value: Any) -> npt.NDArray[np.int64]:
    if np.ma.is_masked(value):
        raise InvalidRequest("boxes.counts", "has masked values")
    try:
        counts = np.asarray(value)
    except (TypeError, ValueError):
        raise InvalidRequest("boxes.counts", "must be a list of whole numbers") from None
    if counts.ndim != 1 or (counts.dtype.kind not in "iu" and counts.size):
        raise InvalidRequest("boxes.counts", "must be a list of whole numbers")
    if counts.size and int(counts.min()) < 0:
        raise InvalidRequest(f"boxes.counts[{int(counts.argmin())}]", "is negative")
    return counts.astype(np.int64, copy=False)


def _check_total(total: int, xyxy: Tensorlike) -> None:
    if total != xyxy.shape[0]:
        raise InvalidRequest(
            "boxes.counts", f"add up to {total}, but there are {xyxy.shape[0]} boxes"
        )


def _check_values(xyxy: Array, offsets: npt.NDArray[np.int64]) -> None:
    """Refuse the first box that is not finite or is turned inside out."""
    # Where the kernels are in use anyway; loading them takes a second, and another thread may be
    # just at it.
    are_boxes = getattr(sys.modules.get("cass_core.cpu.boxes"), "are_boxes", None)
    if are_boxes is not None and are_boxes(read_only(xyxy)):
        return
    # count_nonzero is the fastest of NumPy's reductions, by far for few boxes; and a long loop
    # for each side is faster than one of two rounds a box.
    sides = xyxy.T
    finite = np.isfinite(xyxy)
    ordered = np.less_equal(sides[:2], sides[2:], order="C")
    if np.count_nonzero(finite) == finite.size and np.count_nonzero(ordered) == ordered.size:
        return
    good = finite.all(axis=1) & ordered.all(axis=0)
    box = int(np.argmin(good))
    image = int(np.searchsorted(offsets, box, side="right")) - 1
    name = f"boxes[{image}][{box - int(offsets[image])}]"
    if not finite[box].all():
        coordinate = int(np.argmin(finite[box]))
        raise InvalidRequest(
            f"{name}.{_COORDINATES[coordinate]}", f"is not finite ({xyxy[box, coordinate]})"
        )
    axis = "x" if xyxy[box, 2] < xyxy[box, 0] else "y"
    raise InvalidRequest(f"{name}.{axis}2", f"is smaller than {axis}1; boxes are x1, y1, x2, y2")
