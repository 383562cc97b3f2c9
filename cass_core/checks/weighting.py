"""Weighting: what the weights of patches are made from, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cass_core.arrays import Tensorlike, is_tensor, to_host
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.specs import MaskSpec, WeightSpec


@dataclass(frozen=True, slots=True)
class Weighting:
    """What says how much a patch weighs, beside the boxes.

    Attributes:
        spec: the options.
        valid_region: ``[B, 4]`` float32, the part of each image that is one, or None.
        ignore: the ignored boxes of each image, or None.
        box_weights: ``[M]`` float32, or None.
    """

    spec: WeightSpec
    valid_region: Tensorlike | None = None
    ignore: BoxBatch | None = None
    box_weights: Tensorlike | None = None

    @classmethod
    def check(
        cls,
        boxes: BoxBatch,
        mask_spec: MaskSpec,
        weight_spec: WeightSpec | None,
        valid_region: Any,
        ignore: BoxBatch | Sequence[Any] | None,
        box_weights: Any,
    ) -> Weighting:
        """Check the arguments of `generate_mask`, which names the errors."""
        spec = WeightSpec() if weight_spec is None else weight_spec
        if not isinstance(spec, WeightSpec):
            raise InvalidRequest("weight_spec", f"must be a WeightSpec, got {type(spec).__name__}")
        region = None if valid_region is None else _regions(valid_region, boxes.num_images)
        ignored = None if ignore is None else _ignored(ignore, boxes.num_images)
        weights = None if box_weights is None else _box_weights(box_weights, boxes)
        return cls.checked(mask_spec, spec, region, ignored, weights)

    @classmethod
    def checked(
        cls,
        mask_spec: MaskSpec,
        spec: WeightSpec,
        valid_region: Tensorlike | None,
        ignore: BoxBatch | None,
        box_weights: Tensorlike | None,
    ) -> Weighting:
        """Check what concerns several arguments at once, the rest being good already."""
        if mask_spec.merge != "max":
            if spec.balance == "object":
                raise InvalidRequest("weight_spec.balance", "object needs mask_spec.merge max")
            if box_weights is not None:
                raise InvalidRequest("box_weights", "need mask_spec.merge max")
        return cls(spec, valid_region, ignore, box_weights)

    @property
    def needs_owner(self) -> bool:
        """Whether a patch's weight depends on its owner."""
        return self.box_weights is not None or self.spec.balance == "object"


def _renamed(error: InvalidRequest, boxes: str, name: str) -> InvalidRequest:
    """What a `BoxBatch` says of its boxes, said of another argument."""
    return InvalidRequest(name + error.field.removeprefix(boxes), error.reason)


def _regions(value: Any, num_images: int) -> Tensorlike:
    try:
        batch = BoxBatch.from_list([value])  # for its conversion of arrays
    except InvalidRequest as error:
        raise _renamed(error, "boxes[0]", "valid_region") from None
    if batch.num_boxes != num_images:
        raise InvalidRequest(
            "valid_region", f"has {batch.num_boxes} entries, but there are {num_images} images"
        )
    return batch.xyxy


def _ignored(value: Any, num_images: int) -> BoxBatch:
    try:
        batch = BoxBatch.wrap(value)
    except InvalidRequest as error:
        raise _renamed(error, "boxes", "ignore") from None
    if batch.num_images != num_images:
        raise InvalidRequest(
            "ignore", f"has {batch.num_images} entries, but there are {num_images} images"
        )
    return batch


def _box_weights(value: Any, boxes: BoxBatch) -> Tensorlike:
    """One weight a box: a list with the weights of each image, or all of them in one array."""
    if is_tensor(value) or isinstance(value, np.ndarray):
        flat: Tensorlike = _float32(value, "box_weights")
        if flat.ndim != 1 or len(flat) != boxes.num_boxes:
            raise InvalidRequest(
                "box_weights",
                f"have the shape {list(flat.shape)}, there are {boxes.num_boxes} boxes",
            )
        check_weights(flat, "box_weights")
        return flat
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidRequest("box_weights", "must be a list with one entry an image")
    if len(value) != boxes.num_images:
        raise InvalidRequest(
            "box_weights", f"has {len(value)} entries, but there are {boxes.num_images} images"
        )
    parts = []
    for i, (entry, count) in enumerate(zip(value, boxes.counts.tolist(), strict=True)):
        part = _float32([] if entry is None else entry, f"box_weights[{i}]")
        if part.ndim != 1 or len(part) != count:
            raise InvalidRequest(
                f"box_weights[{i}]", f"has the shape {list(part.shape)}, there are {count} boxes"
            )
        check_weights(part, f"box_weights[{i}]")
        parts.append(part)
    tensor = next((part for part in parts if is_tensor(part)), None)
    if tensor is None:
        return np.concatenate(parts) if parts else np.empty(0, np.float32)
    import torch

    return torch.cat([torch.as_tensor(part, device=tensor.device) for part in parts])


def _float32(value: Any, field: str) -> Any:
    if is_tensor(value):
        if value.is_complex() or str(value.layout) != "torch.strided":
            raise InvalidRequest(field, "must be a dense array of real numbers")
        return value.detach().float().contiguous()
    if np.ma.is_masked(value):
        raise InvalidRequest(field, "has masked values")
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" and array.size:
            raise TypeError
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
            return np.ascontiguousarray(array, np.float32).reshape(array.shape)
    except (TypeError, ValueError):
        raise InvalidRequest(field, "must be an array of numbers") from None


def check_weights(weights: Tensorlike, field: str) -> None:
    """Rejects the first weight that is negative or not finite; a device's are not read."""
    if is_tensor(weights) and weights.device.type != "cpu":
        return
    values = to_host(weights)[0]
    good = (values >= 0) & (values < np.inf)  # False for NaN
    if np.count_nonzero(good) == good.size:  # the fastest of NumPy's reductions
        return
    index = np.unravel_index(int(np.argmin(good)), values.shape)
    place = "".join(f"[{i}]" for i in index)
    raise InvalidRequest(
        f"{field}{place}", f"must be a finite number of at least 0, got {values[index]}"
    )
