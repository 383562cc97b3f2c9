"""Messages with tensors as bytes, put together without protobuf.

A tensor that protobuf serializes is copied three times on its way: out of the array, into the
message, and out of it. Here it is copied once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from cass.codec.weighting import weighting_fields
from cass.codec.wire_format import LENGTH_DELIMITED, delimited, number_of, tag_of, varint
from cass.dtypes import NUMBERS, element_type
from cass.specs import loss_spec_message, mask_spec_message
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array, Tensorlike, to_host
from cass_core.grid import FeatureMap, patch_grid
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_core.specs import MaskSpec

# Lengths take five bytes whatever they are, so that the layout does not depend on them: readers
# take a varint that is longer than it need be.
_LENGTH_BYTES: Final = 5
# Elements begin at a multiple of it, so that readers need not move them: CPython aligns what a
# bytes object holds.
_ALIGNMENT: Final = 8
_MAX_LENGTH: Final = 2**31 - 1
_DOUBLE: Final = 1  # a wire type

_DTYPE, _SHAPE, _DATA = (number_of(pb.Tensor, name) for name in ("dtype", "shape", "data"))
_MASKS, _OWNERS = (number_of(pb.GenerateMaskResponse, name) for name in ("masks", "owners"))
_LOSS, _SUM, _NORMALIZER, _GRAD = (
    number_of(pb.ComputeLossResponse, name) for name in ("loss", "sum", "normalizer", "grad")
)
_WEIGHTS = number_of(pb.GenerateMaskResponse, "weights")
_LOGITS, _TARGET, _LOSS_WEIGHTS = (
    number_of(pb.ComputeLossRequest, name) for name in ("logits", "target", "weights")
)
_ENTRY = number_of(pb.StreamMasksResponse, "masks")
_REQUEST = tag_of(pb.StreamMasksRequest, "request")
_BOXES = tag_of(pb.GenerateMaskRequest, "boxes")
_XYXY, _COUNTS = tag_of(pb.BoxBatch, "xyxy"), tag_of(pb.BoxBatch, "counts")
_KEPT_BYTES: Final = 512


class MaskLayout:
    """How the answers to requests with these shapes ``(B, n_y, n_x)``, by map, lie in memory.

    Those of a stream are entries, `StreamMasksResponse`. What is too long for protobuf raises a
    `ValueError`.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtype: str,
        return_owner: bool,
        return_weights: bool = False,
        *,
        entry: bool = False,
    ) -> None:
        tensors = [_Tensor(_MASKS, dtype, shape) for shape in shapes]
        if return_owner:
            tensors += [_Tensor(_OWNERS, "int32", shape) for shape in shapes]
        self._weights = len(tensors)
        if return_weights:
            tensors += [_Tensor(_WEIGHTS, "float32", shape) for shape in shapes]
        self._plan = _plan(tuple(tensors), 0, _ENTRY if entry else None)
        self._masks = len(shapes)

    def arrays(self) -> tuple[list[Array], list[Array], list[Array]]:
        """Arrays of unset values for the masks, the owner maps and the weights of an answer."""
        arrays = [np.empty(place.shape, place.dtype) for place in self._plan.places]
        return self._split(arrays)

    def _split(self, arrays: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
        masks, weights = self._masks, self._weights
        return arrays[:masks], arrays[masks:weights], arrays[weights:]

    def message(
        self, masks: Sequence[Array], owners: Sequence[Array], weights: Sequence[Array] = ()
    ) -> bytes:
        """The serialized answer with these arrays, which are contiguous."""
        return _message(self._plan, b"", [*masks, *owners, *weights])

    def read(self, message: bytes) -> tuple[list[Array], list[Array], list[Array]] | None:
        """Copies of the arrays of an answer; None if it lies in another way."""
        if len(message) != self._plan.size or not message.startswith(self._plan.start):
            return None
        arrays: list[Array] = []
        for at, header, begin, shape, dtype in self._plan.places:
            if not message.startswith(header, at):
                return None
            arrays.append(np.ndarray(shape, dtype, message, begin).copy())
        return self._split(arrays)


def mask_layout(inputs: MaskInputs, *, entry: bool = False) -> MaskLayout:
    """How the answer to a request lies in memory; see `MaskLayout`."""
    return _mask_layout(
        inputs.boxes.num_images,
        tuple(inputs.maps),
        inputs.spec.patch_size,
        inputs.dtype,
        inputs.return_owner,
        inputs.weighting is not None,
        entry,
    )


@lru_cache(maxsize=256)
def _mask_layout(
    images: int,
    maps: tuple[FeatureMap, ...],
    patch_size: int,
    dtype: str,
    return_owner: bool,
    return_weights: bool,
    entry: bool,
) -> MaskLayout:
    shapes = [(images, *patch_grid(feature_map, patch_size)) for feature_map in maps]
    return MaskLayout(shapes, dtype, return_owner, return_weights, entry=entry)


def loss_response(inputs: LossInputs, result: HostLoss) -> bytes:
    """The serialized `ComputeLossResponse` for the result of a request."""
    tensors = [_Tensor(_LOSS, result.loss.dtype.name, result.loss.shape)]
    arrays = [result.loss]
    if result.grad is not None:
        tensors.append(_Tensor(_GRAD, inputs.logits_dtype, result.grad.shape))
        arrays.append(result.grad)
    numbers = b"".join(
        bytes([number << 3 | _DOUBLE]) + struct.pack("<d", value)
        for number, value in ((_SUM, result.total), (_NORMALIZER, result.normalizer))
    )
    return _message(_plan(tuple(tensors), len(numbers), None), numbers, arrays)


def loss_request(inputs: LossInputs) -> bytes:
    """The serialized `ComputeLossRequest` for checked inputs."""
    tensors, arrays = [_Tensor(_LOGITS, inputs.logits_dtype, inputs.logits.shape)], [inputs.logits]
    if inputs.target is not None:
        tensors.append(_Tensor(_TARGET, inputs.target_dtype, inputs.target.shape))
        arrays.append(inputs.target)
    if inputs.weights is not None:
        tensors.append(_Tensor(_LOSS_WEIGHTS, "float32", inputs.weights.shape))
        arrays.append(inputs.weights)
    request = pb.ComputeLossRequest(
        loss_spec=loss_spec_message(inputs.spec),
        num_boxes=inputs.num_boxes,
        return_grad=inputs.return_grad,
    )
    if inputs.mask is not None:
        request.mask.MergeFromString(_mask_request(inputs.mask, None, return_owner=False))
        request.mask.return_weights = False
    options = request.SerializeToString()
    plan = _plan(tuple(tensors), len(options), None)
    return _message(plan, options, [np.ascontiguousarray(array) for array in arrays])


def mask_request(inputs: MaskInputs) -> bytes:
    """The serialized `GenerateMaskRequest` for checked inputs."""
    return _mask_request(inputs, inputs.dtype, inputs.return_owner)


def stream_request(inputs: MaskInputs) -> bytes:
    """The serialized `StreamMasksRequest` for checked inputs."""
    return delimited(_REQUEST, mask_request(inputs))


def _mask_request(inputs: MaskInputs, dtype: str | None, return_owner: bool) -> bytes:
    xyxy, sizes = _bytes(inputs.boxes.xyxy), _bytes(inputs.sizes)
    # Beside its boxes a client's requests are alike; long lists are not cached.
    rest = _kept_rest if len(sizes) <= _KEPT_BYTES else mask_options
    options = rest(sizes, tuple(inputs.maps), inputs.spec, dtype, return_owner)
    message = boxes_field(xyxy, inputs.boxes.counts.tolist()) + options
    return message if inputs.weighting is None else message + weighting_fields(inputs.weighting)


def boxes_field(xyxy: bytes | memoryview, counts: Sequence[int]) -> bytes:
    """What a `GenerateMaskRequest` begins with: its boxes, with counts from 0 to 2^32 - 1."""
    numbers = bytes(counts) if max(counts, default=0) < 0x80 else b"".join(map(varint, counts))
    boxes = delimited(_XYXY, xyxy) if xyxy else b""
    if numbers:
        boxes += delimited(_COUNTS, numbers)
    return delimited(_BOXES, boxes)


def _bytes(value: Tensorlike) -> bytes:
    return (value if type(value) is np.ndarray else to_host(value)[0]).tobytes()


def mask_options(
    sizes: bytes,
    maps: tuple[FeatureMap, ...],
    spec: MaskSpec,
    dtype: str | None,
    return_owner: bool,
) -> bytes:
    """What comes after the boxes in a `GenerateMaskRequest`.

    The sizes are the bytes of checked ones, as `MaskInputs` has them; so are the maps.
    """
    heights, widths = np.frombuffer(sizes).reshape(-1, 2).T.astype(np.int64).tolist()
    return pb.GenerateMaskRequest(
        image_sizes=pb.ImageSizes(heights=heights, widths=widths),
        feature_maps=[pb.FeatureMap(height=h, width=w) for h, w in maps],
        mask_spec=mask_spec_message(spec),
        dtype=None if dtype is None else NUMBERS[dtype],
        return_owner=return_owner,
    ).SerializeToString()


_kept_rest = lru_cache(maxsize=256)(mask_options)


class _Tensor(NamedTuple):
    field: int
    dtype: str
    shape: tuple[int, ...]


class _Place(NamedTuple):
    """Where the header and the elements of a tensor go."""

    at: int
    header: bytes
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Plan(NamedTuple):
    """What comes before the head, the message's size, and the places of the tensors."""

    start: bytes
    size: int
    places: list[_Place]


def _message(plan: _Plan, head: bytes, arrays: Sequence[Array]) -> bytes:
    """A message of the head and the tensors."""
    parts: list[bytes | memoryview] = [plan.start, head]
    for place, array in zip(plan.places, arrays, strict=True):
        parts += (place.header, array.data)
    return b"".join(parts)


@lru_cache(maxsize=256)
def _plan(tensors: tuple[_Tensor, ...], head: int, wrapper: int | None) -> _Plan:
    """A head of that length and tensors, in a field of another message if they are wrapped."""
    start = 0 if wrapper is None else 1 + _LENGTH_BYTES
    at = start + head
    places = []
    for tensor in tensors:
        dtype = element_type(tensor.dtype)
        size = math.prod(tensor.shape) * dtype.itemsize
        header = _tensor_header(tensor, size, at)
        begin = at + len(header)
        places.append(_Place(at, header, begin, tensor.shape, dtype))
        at = begin + size
    if at > _MAX_LENGTH:
        raise ValueError(f"a message of {at} bytes is too long for protobuf")
    before = b"" if wrapper is None else _field(wrapper, at - start)
    return _Plan(before, at, places)


def _tensor_header(tensor: _Tensor, size: int, at: int) -> bytes:
    """What comes before the elements of a tensor whose field begins at a place."""
    shape = b"".join(varint(side) for side in tensor.shape)
    data = _field(_DATA, size)
    before = 1 + _LENGTH_BYTES + 1 + 1 + 1 + 1 + len(shape) + len(data)
    padding = -(at + before) % _ALIGNMENT
    # Into the dtype's number, and the rest into the length of the shape: protobufjs takes none of
    # six to nine bytes.
    longer = min(padding, _LENGTH_BYTES - 1)
    dtype = bytes([_DTYPE << 3]) + varint(NUMBERS[tensor.dtype], 1 + longer)
    dimensions = bytes([_SHAPE << 3 | LENGTH_DELIMITED]) + varint(len(shape), 1 + padding - longer)
    inner = dtype + dimensions + shape + data
    return _field(tensor.field, len(inner) + size) + inner


def _field(number: int, length: int) -> bytes:
    return bytes([number << 3 | LENGTH_DELIMITED]) + varint(length, _LENGTH_BYTES)
