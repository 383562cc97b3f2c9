"""MaskRequests: the masks that a loader adds to its batches, checked once, requested for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from cass_client.arguments import loader_inputs
from cass_client.boxes import BoxFormat, check_format
from cass_client.client import CassClient, check_client
from cass_client.image_boxes import Form, ImageBoxes, PackedBoxes, Region, pack_boxes
from cass_client.notices import warn_unweighted, warn_without_patch
from cass_client.torch.placement import Into, check_into, check_place, place_maps
from cass_client.torch.targets.batches import read_batch
from cass_client.torch.targets.functions import (
    checked_region,
    given_by_function,
    regions_of_image,
)
from cass_client.torch.targets.samples import read_sample
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import MAX_SIDE, FeatureMap
from cass_core.specs import MaskSpec, WeightSpec, check_flag


class MaskRequests:
    """What masks a loader wants, of what, and where; its arguments are those of `MaskTargets`."""

    def __init__(
        self,
        client: CassClient,
        feature_map: Any = None,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        strides: int | Sequence[int] | None = None,
        dtype: Any = "float32",
        boxes: str | Callable[[Any], tuple[Any, ...]] = "boxes",
        image: str = "image",
        key: str = "masks",
        into: Into = "batch",
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        weight_spec: WeightSpec | None = None,
        return_weights: bool = False,
        ignore_crowds: bool = True,
        ignore_padding: bool = True,
        weights_key: str = "weights",
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
        self._weighted = check_flag(return_weights, "return_weights") or weight_spec is not None
        inputs.with_weights(self._weighted, weight_spec, None, None, None)
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
        self._weight_spec = weight_spec
        self._ignore_crowds = check_flag(ignore_crowds, "ignore_crowds")
        self._ignore_padding = check_flag(ignore_padding, "ignore_padding")
        if weights_key == key:
            raise InvalidRequest("weights_key", f"is {key!r}, as the masks' is")
        self._weights_key = weights_key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown()})"

    def shown(self) -> str:
        """The first arguments, as a loader shows them."""
        maps = f"strides={self._strides}" if self._strides else f"{self._maps_of or self._map}"
        return f"{self._client}, {maps}, {self._spec}"

    def of_samples(self, samples: Sequence[Any]) -> Future[Any]:
        """The masks of samples that are to be collated, with their weights if there are any."""
        read = [self._read_sample(sample, position) for position, sample in enumerate(samples)]
        regions = [region for *_, region in read]
        return self._send([b for b, *_ in read], [size for _, size, _ in read], regions)

    def of_batch(self, batch: Any) -> Future[Any]:
        """The masks of a batch, with their weights if there are any."""
        self.check_place(batch)
        if self._function is None:
            return self._send(*read_batch(batch, self._boxes, self._image, self._form))
        boxes, sizes, regions = given_by_function(self._function(batch), "boxes")
        parts = [regions_of_image(regions, i, len(boxes)) for i in range(len(boxes))]
        read = [self._plain(*pair, i) for i, pair in enumerate(zip(boxes, parts, strict=True))]
        return self._send([b for b, _ in read], sizes, [region for _, region in read])

    def check_place(self, batch: Any) -> None:
        """Rejects a batch that masks cannot be added to."""
        keys = [self._key, self._weights_key] if self._weighted else [self._key]
        check_place(batch, keys if self._into == "batch" else [])

    def place(self, batch: Any, made: Any) -> Any:
        """The batch with what `of_samples` or `of_batch` made."""
        maps = {self._key: made}
        if self._weighted:
            maps = dict(zip((self._key, self._weights_key), made, strict=True))
        return place_maps(batch, maps, self._into, self._boxes)

    def _read_sample(self, sample: Any, position: int) -> tuple[ImageBoxes, Any, Region | None]:
        if self._function is None:
            return read_sample(sample, position, self._boxes, self._image, self._form)
        name = f"boxes[{position}]"
        values, size, regions = given_by_function(self._function(sample), name)
        boxes, region = self._plain(values, regions, position)
        return boxes, size, region

    def _plain(
        self, values: Any, regions: Mapping[str, Any], position: int
    ) -> tuple[ImageBoxes, Region | None]:
        box_format, normalized = self._form.box_format or "xyxy", self._form.normalized
        ignore = regions.get("ignore")
        ignored = () if ignore is None else (ignore,)
        boxes = ImageBoxes(values, box_format, normalized, ignored=ignored)
        return boxes, checked_region(regions.get("valid_region"), f"valid_region[{position}]")

    def _send(
        self,
        images: Sequence[ImageBoxes],
        sizes: Sequence[Any],
        regions: Sequence[Region | None] | None,
    ) -> Future[Any]:
        packed = pack_boxes(images, sizes, regions)
        boxes = packed.boxes.to("cpu")  # as a tensor: masks come as what their boxes are
        maps = self._maps(packed.sizes)
        future = self._client.generate_mask_future(
            boxes, packed.sizes, maps, self._spec, dtype=self._dtype, **self._weighting(packed)
        )
        warn_without_patch(boxes, packed.sizes, maps, self._spec)
        return future

    def _weighting(self, packed: PackedBoxes) -> dict[str, Any]:
        """What weights are made from; without weights there is a warning of what they were for."""
        ignore = packed.ignore if self._ignore_crowds else None
        valid_region = packed.valid_region if self._ignore_padding else None
        if not self._weighted:
            warn_unweighted(packed.boxes, ignore, valid_region, packed.sizes)
            return {}
        given = {"ignore": ignore, "valid_region": valid_region, "return_weights": True}
        return given | {"weight_spec": self._weight_spec}

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
