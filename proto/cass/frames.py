"""Messages laid out as the bytes that are sent, whose tensors are computed or copied in place.

gRPC sends a `bytes` object and copies it once. A tensor that protobuf serializes would be copied
three times more on the way there: out of the array, into the message, and out of it.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from cass import wire
from cass.dtypes import NUMBERS, element_type
from cass.fields import LENGTH_DELIMITED, number_of, varint
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_core.masks import MaskInputs

# Lengths take five bytes whatever they are, so that the layout does not depend on them: readers
# take a varint that is longer than it need be.
_LENGTH_BYTES: Final = 5
# Where elements begin: a multiple of it, in memory too, as CPython aligns what a bytes object
# holds to 16.
_ALIGNMENT: Final = 8
_MAX_LENGTH: Final = 2**31 - 1
_DOUBLE: Final = 1  # a wire type

_DTYPE, _SHAPE, _DATA = (number_of(pb.Tensor, name) for name in ("dtype", "shape", "data"))
_MASKS, _OWNERS = (number_of(pb.GenerateMaskResponse, name) for name in ("masks", "owners"))
_LOSS, _SUM, _NORMALIZER, _GRAD = (
    number_of(pb.ComputeLossResponse, name) for name in ("loss", "sum", "normalizer", "grad")
)
_LOGITS, _TARGET = (number_of(pb.ComputeLossRequest, name) for name in ("logits", "target"))
_ENTRY = number_of(pb.StreamMasksResponse, "masks")


class MaskFrame(NamedTuple):
    """The answer to a mask request, to be sent once its arrays are filled.

    The arrays are views of the message, and keep it; they must not be written to once it is sent.

    Attributes:
        message: a serialized `GenerateMaskResponse`.
        masks: one ``[B, n_y, n_x]`` for each feature map, of unset values.
        owners: likewise int32, or none.
    """

    message: bytes
    masks: list[Array]
    owners: list[Array]


class MaskLayout:
    """How the answers lie in memory to requests that ask for the same.

    Args:
        shapes: ``(B, n_y, n_x)`` of the mask of each feature map.
        dtype: name of the masks' dtype.
        return_owner: whether there are owner maps.
        entry: whether an answer is the entry of a stream, a `StreamMasksResponse`.

    Raises:
        ValueError: the answer is too long for protobuf.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtype: str,
        return_owner: bool,
        *,
        entry: bool = False,
    ) -> None:
        fields = [_Tensor(_MASKS, dtype, shape) for shape in shapes]
        if return_owner:
            fields += [_Tensor(_OWNERS, "int32", shape) for shape in shapes]
        self._plan = _plan(tuple(fields), 0, _ENTRY if entry else None)
        self._masks = len(shapes)

    def frame(self) -> MaskFrame:
        """Room for one more answer."""
        message, _, arrays = _lay_out(b"", self._plan)
        return MaskFrame(message, arrays[: self._masks], arrays[self._masks :])


def mask_frame(inputs: MaskInputs, *, entry: bool = False) -> MaskFrame:
    """Lay out the answer to a request.

    Args:
        inputs: the request.
        entry: as the entry of a stream, a `StreamMasksResponse`.
    """
    return MaskLayout(inputs.shapes(), inputs.dtype, inputs.return_owner, entry=entry).frame()


@dataclass(frozen=True, slots=True)
class LossFrame:
    """The answer to a loss request, to be sent once it is finished; see `MaskFrame`.

    Attributes:
        message: a serialized `ComputeLossResponse`.
        loss: the array of the loss, a scalar or one for each patch.
        grad: the array of the gradient, or None.
    """

    message: bytes
    loss: Array
    grad: Array | None
    _memory: Any  # a ctypes array

    def finish(self, result: HostLoss) -> bytes:
        """Set what is not set yet: sum and normaliser, and the loss if it lies elsewhere."""
        if result.loss is not self.loss:
            self.loss[...] = result.loss
        struct.pack_into("<d", self._memory, 1, result.total)
        struct.pack_into("<d", self._memory, 10, result.normalizer)
        return self.message


def loss_frame(inputs: LossInputs) -> LossFrame:
    """Lay out the answer to a request."""
    shape = inputs.logits.shape
    real = "float64" if inputs.logits_dtype == "float64" else "float32"
    fields = [_Tensor(_LOSS, real, shape if inputs.spec.reduction == "none" else ())]
    if inputs.return_grad:
        fields.append(_Tensor(_GRAD, inputs.logits_dtype, shape))
    numbers = b"".join(bytes([number << 3 | _DOUBLE]) + bytes(8) for number in (_SUM, _NORMALIZER))
    message, memory, arrays = _lay_out(numbers, _plan(tuple(fields), len(numbers), None))
    return LossFrame(message, arrays[0], arrays[1] if inputs.return_grad else None, memory)


def loss_request(inputs: LossInputs) -> bytes:
    """The serialized `ComputeLossRequest` for checked inputs, its tensors aligned."""
    tensors = [(_LOGITS, inputs.logits_dtype, inputs.logits)]
    if inputs.target is not None:
        tensors.append((_TARGET, inputs.target_dtype, inputs.target))
    options = wire.loss_options(inputs).SerializeToString()
    fields = tuple(_Tensor(field, dtype, array.shape) for field, dtype, array in tensors)
    message, _, arrays = _lay_out(options, _plan(fields, len(options), None))
    for place, (_, _, array) in zip(arrays, tensors, strict=True):
        place[...] = array
    return message


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
    """What comes before the head, the message's size and memory, and the places of the tensors."""

    start: bytes
    size: int
    memory: type[Any]  # a ctypes array
    places: list[_Place]


def _lay_out(head: bytes, plan: _Plan) -> tuple[bytes, Any, list[Array]]:
    """A message of the head and the tensors, its writable memory, and the tensors' arrays."""
    message: bytes = _new_bytes(None, plan.size)
    memory = plan.memory.from_address(_address(message))
    memory.message = message  # which the arrays on it thereby keep
    before = plan.start + head
    memory[: len(before)] = before
    arrays: list[Array] = []
    for at, header, begin, shape, dtype in plan.places:
        memory[at:begin] = header
        arrays.append(np.ndarray(shape, dtype, memory, begin))
    return message, memory, arrays


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
    return _Plan(before, at, ctypes.c_char * at, places)


def _tensor_header(tensor: _Tensor, size: int, at: int) -> bytes:
    """What comes before the elements of a tensor whose field begins at a place."""
    shape = b"".join(varint(side) for side in tensor.shape)
    dimensions = bytes([_SHAPE << 3 | LENGTH_DELIMITED]) + varint(len(shape)) + shape
    data = _field(_DATA, size)
    # The padding goes where it does the least: into the dtype's number.
    before = 1 + _LENGTH_BYTES + 1 + 1 + len(dimensions) + len(data)
    padding = -(at + before) % _ALIGNMENT
    dtype = bytes([_DTYPE << 3]) + varint(NUMBERS[tensor.dtype], 1 + padding)
    inner = dtype + dimensions + data
    return _field(tensor.field, len(inner) + size) + inner


def _field(number: int, length: int) -> bytes:
    return bytes([number << 3 | LENGTH_DELIMITED]) + varint(length, _LENGTH_BYTES)


# CPython lets whoever has made a bytes object of unset bytes, and not shown it to anyone yet,
# write to it: https://docs.python.org/3/c-api/bytes.html
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype, _new_bytes.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
_address = ctypes.pythonapi.PyBytes_AsString
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object,)
