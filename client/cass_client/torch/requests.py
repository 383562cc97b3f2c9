"""MaskRequests: the masks that a loader adds to its batches, checked once, requested for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from cass_client.arguments import loader_inputs
from cass_client.boxes import BoxFormat, check_format
from cass_client.client import CassClient, check_client
from cass_client.found import Form, Found, Region, pack_boxes
from cass_client.notices import warn_without_patch
from cass_client.torch.placement import Into, check_into, check_place, place_masks
from cass_client.torch.targets.batches import read_batch
from cass_client.torch.targets.samples import read_sample
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import MAX_SIDE, FeatureMap
from cass_core.specs import MaskSpec, check_flag


class MaskRequests:
    """What masks a loader wants, of what, and where; its arguments are those of `MaskCollate`."""

    def __init__(
        self,
        client: CassClient,
        feature_map: Any,
        spec: MaskSpec,
        *,
        strides: int | Sequence[int] | None,
        dtype: Any,
        boxes: str | Callable[[Any], tuple[Any, Any]],
        image: str,
        key: str,
        into: Into,
        box_format: BoxFormat | None,
        normalized: bool | None,
    ) -> None:
        if (feature_map is None) == (strides is None):
            raise InvalidRequest("feature_map", "give either a feature_map or strides")
        self._client = check_client(client)
        self._strides = _checked_strides(strides)
        self._single = isinstance(strides, int)
        self._maps_of = feature_map if callable(feature_map) else None
        self._map: Any = None
        # Found out here, not by each worker.
        maps, checked = feature_map, spec
        if self._maps_of is not None:  # as many as it gives, so that ranges fit or not
            maps = (1, 1)
            checked = spec.replace(level_ranges=None) if isinstance(spec, MaskSpec) else spec
        elif self._strides is not None:
            maps = (1, 1) if self._single else [(1, 1)] * len(self._strides)
        unpacked = BoxBatch.from_list([None]).to("cpu")
        inputs = loader_inputs(unpacked, None, maps, checked, dtype)
        if maps is feature_map:
            self._map = inputs.maps[0] if inputs.single else inputs.maps
        self._spec, self._dtype = spec, inputs.dtype
        self._function = None if isinstance(boxes, str) else boxes
        self._boxes = boxes if isinstance(boxes, str) else "boxes"
        self._image = image
        self._key = key
        self._into = check_into(into)
        if box_format is not None:
            check_format(box_format)
        if normalized is not None:
            normalized = check_flag(normalized, "normalized")
        self._form = Form(box_format, normalized)

    def __repr__(self) -> str:
        maps = f"strides={self._strides}" if self._strides else f"{self._maps_of or self._map}"
        return f"{self._client}, {maps}, {self._spec}"

    def of_samples(self, samples: Sequence[Any]) -> Future[Any]:
        """The masks of samples that are to be collated."""
        read = [self._read_sample(sample, position) for position, sample in enumerate(samples)]
        return self._send([f for f, _, _ in read], [s for _, s, _ in read], [r for _, _, r in read])

    def of_batch(self, batch: Any) -> Future[Any]:
        """The masks of a batch."""
        self.check_place(batch)
        if self._function is None:
            return self._send(*read_batch(batch, self._boxes, self._image, self._form))
        boxes, sizes = _given(self._function(batch), "boxes")
        return self._send([self._plain(values) for values in boxes], sizes, None)

    def check_place(self, batch: Any) -> None:
        """Rejects a batch that masks cannot be added to."""
        check_place(batch, self._key if self._into == "batch" else None)

    def place(self, batch: Any, masks: Any) -> Any:
        """The batch with its masks."""
        return place_masks(batch, masks, self._into, self._key, self._boxes)

    def _read_sample(self, sample: Any, position: int) -> tuple[Found, Any, Region | None]:
        if self._function is None:
            return read_sample(sample, position, self._boxes, self._image, self._form)
        values, size = _given(self._function(sample), f"boxes[{position}]")
        return self._plain(values), size, None

    def _plain(self, values: Any) -> Found:
        return Found(values, self._form.box_format or "xyxy", self._form.normalized)

    def _send(
        self, found: Sequence[Found], sizes: Sequence[Any], regions: Sequence[Region | None] | None
    ) -> Future[Any]:
        packed, checked = pack_boxes(found, sizes, regions)
        boxes = packed.to("cpu")  # as a tensor: masks come as what their boxes are
        maps = self._maps(checked)
        future = self._client.generate_mask_future(
            boxes, checked, maps, self._spec, dtype=self._dtype
        )
        warn_without_patch(boxes, checked, maps, self._spec)
        return future

    def _maps(self, sizes: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
        """The feature maps of a batch, which may depend on the size of its images."""
        if self._map is not None:
            return self._map
        name = "strides" if self._maps_of is None else "feature_map"
        if not len(sizes):
            raise InvalidRequest(name, "needs an image, whose size it depends on")
        different = (sizes != sizes[0]).any(axis=1)
        if different.any():
            image = int(np.argmax(different))
            first, other = (tuple(map(int, sizes[i])) for i in (0, image))
            raise InvalidRequest(
                f"image_size[{image}]",
                f"is {other}, image_size[0] {first}: with {name} the images of a batch are of one "
                "size; if collate_fn pads or resizes them, after=True reads the size that they "
                "have then",
            )
        size = int(sizes[0, 0]), int(sizes[0, 1])
        if self._maps_of is not None:
            return self._maps_of(size)
        maps = [_map_of_stride(size, stride) for stride in self._strides or ()]
        return maps[0] if self._single else maps


def _given(found: Any, name: str) -> tuple[Any, Any]:
    """Boxes and size that a function gave."""
    if not (isinstance(found, tuple | list) and len(found) == 2):
        raise InvalidRequest(
            name, f"the function must give boxes and (H, W), got {type(found).__name__}"
        )
    return found[0], found[1]


def _map_of_stride(size: tuple[int, int], stride: int) -> FeatureMap:
    """(h, w) of the feature map of a stride: a last cell may reach beyond the image."""
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


def _checked_strides(strides: Any) -> tuple[int, ...] | None:
    if strides is None:
        return None
    several = strides if isinstance(strides, list | tuple) else [strides]
    for stride in several:
        if not isinstance(stride, int) or isinstance(stride, bool) or not 0 < stride <= MAX_SIDE:
            raise InvalidRequest("strides", f"must be whole numbers above 0, got {stride!r}")
    if not several:
        raise InvalidRequest("strides", "must have at least one")
    return tuple(several)
