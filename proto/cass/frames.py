"""Messages laid out as the bytes that are sent, whose tensors are computed or copied in place.

gRPC sends a `bytes` object and copies it once. A tensor that protobuf serializes would be copied
three times more on the way there: out of the array, into the message, and out of it.
"""

from __future__ import annotations

import ctypes
import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from cass import wire
from cass.dtypes import NUMBERS, element_type
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_core.masks import MaskInputs

if sys.byteorder != "little":
    raise ImportError("elements are sent as they lie in memory, which must be little-endian")

# Lengths take five bytes whatever they are, so that the layout does not depend on them: readers
# take a varint that is longer than it need be.
_LENGTH_BYTES: Final = 5
# Where elements begin: a multiple of it, in memory too, as CPython aligns what a bytes object
# holds to 16.
_ALIGNMENT: Final = 8
_MAX_LENGTH: Final = 2**31 - 1
_LENGTH_DELIMITED, _DOUBLE = 2, 1


def _number(kind: type, field: str) -> int:
    number: int = kind.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return number


_DTYPE, _SHAPE, _DATA = (_number(pb.Tensor, name) for name in ("dtype", "shape", "data"))
_MASKS, _OWNERS = (_number(pb.GenerateMaskResponse, name) for name in ("masks", "owners"))
_LOSS, _SUM, _NORMALIZER, _GRAD = (
    _number(pb.ComputeLossResponse, name) for name in ("loss", "sum", "normalizer", "grad")
)
_LOGITS, _TARGET = (_number(pb.ComputeLossRequest, name) for name in ("logits", "target"))
_ENTRY = _number(pb.StreamMasksResponse, "masks")


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


def mask_frame(inputs: MaskInputs, *, entry: bool = False) -> MaskFrame:
    """Lay out the answer to a request.

    Args:
        inputs: the request.
        entry: as the entry of a stream, a `StreamMasksResponse`.
    """
    shapes = inputs.shapes()
    fields = [_Tensor(_MASKS, inputs.dtype, shape) for shape in shapes]
    if inputs.return_owner:
        fields += [_Tensor(_OWNERS, "int32", shape) for shape in shapes]
    message, arrays = _lay_out(b"", fields, _ENTRY if entry else None)
    return MaskFrame(message, arrays[: len(shapes)], arrays[len(shapes) :])


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
    message, arrays = _lay_out(numbers, fields, None)
    return LossFrame(
        message,
        arrays[0],
        arrays[1] if inputs.return_grad else None,
        _memory(message),
    )


def loss_request(inputs: LossInputs) -> bytes:
    """The serialized `ComputeLossRequest` for checked inputs, its tensors aligned."""
    tensors = [(_LOGITS, inputs.logits_dtype, inputs.logits)]
    if inputs.target is not None:
        tensors.append((_TARGET, inputs.target_dtype, inputs.target))
    message, arrays = _lay_out(
        wire.loss_options(inputs).SerializeToString(),
        [_Tensor(field, dtype, array.shape) for field, dtype, array in tensors],
        None,
    )
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
    length: int
    tensor: _Tensor


def _lay_out(
    head: bytes, tensors: Sequence[_Tensor], wrapper: int | None
) -> tuple[bytes, list[Array]]:
    """A message of the head and the tensors, in a field of another one if it is to be wrapped."""
    start, size, places = _plan(tuple(tensors), len(head), wrapper)
    message = _unset_bytes(size)
    memory = _memory(message)
    memory[: len(start) + len(head)] = start + head
    arrays = []
    for at, header, begin, length, tensor in places:
        memory[at:begin] = header
        array = np.frombuffer(memory, element_type(tensor.dtype), length, begin)
        arrays.append(array.reshape(tensor.shape))
    return message, arrays


@lru_cache(maxsize=256)
def _plan(
    tensors: tuple[_Tensor, ...], head: int, wrapper: int | None
) -> tuple[bytes, int, list[_Place]]:
    """What comes before the head, the size of the message, and the places of the tensors."""
    start = 0 if wrapper is None else 1 + _LENGTH_BYTES
    at = start + head
    places = []
    for tensor in tensors:
        length = math.prod(tensor.shape)
        size = length * element_type(tensor.dtype).itemsize
        header = _tensor_header(tensor, size, at)
        begin = at + len(header)
        places.append(_Place(at, header, begin, length, tensor))
        at = begin + size
    if at > _MAX_LENGTH:
        raise ValueError(f"a message of {at} bytes is too long for protobuf")
    return b"" if wrapper is None else _field(wrapper, at - start), at, places


def _tensor_header(tensor: _Tensor, size: int, at: int) -> bytes:
    """What comes before the elements of a tensor whose field begins at a place."""
    shape = b"".join(_varint(side) for side in tensor.shape)
    dimensions = bytes([_SHAPE << 3 | _LENGTH_DELIMITED]) + _varint(len(shape)) + shape
    data = _field(_DATA, size)
    # The padding goes where it does the least: into the dtype's number.
    before = 1 + _LENGTH_BYTES + 1 + 1 + len(dimensions) + len(data)
    padding = -(at + before) % _ALIGNMENT
    dtype = bytes([_DTYPE << 3]) + _varint(NUMBERS[tensor.dtype], 1 + padding)
    inner = dtype + dimensions + data
    return _field(tensor.field, len(inner) + size) + inner


def _field(number: int, length: int) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _varint(length, _LENGTH_BYTES)


def _varint(value: int, least: int = 1) -> bytes:
    """A varint of at least that many bytes."""
    parts = bytearray()
    while value >= 0x80 or len(parts) + 1 < least:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# CPython lets whoever has made a bytes object of unset bytes, and not shown it to anyone yet,
# write to it: https://docs.python.org/3/c-api/bytes.html
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype, _new_bytes.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
_address = ctypes.pythonapi.PyBytes_AsString
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object,)


def _unset_bytes(size: int) -> bytes:
    message: bytes = _new_bytes(None, size)
    return message


def _memory(message: bytes) -> Any:
    """The writable memory of a message, a ctypes array."""
    memory = (ctypes.c_char * len(message)).from_address(_address(message))
    memory.message = message  # type: ignore[attr-defined]  # which the arrays on it thereby keep
    return memory
