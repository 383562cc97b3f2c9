"""Answers as serialized `ModelInferResponse`s, each tensor copied once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cass.codec.wire_format import LENGTH_DELIMITED, varint
from cass.dtypes import element_type
from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.arrays import Array
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_server.open_inference.models import VERSION
from cass_server.open_inference.tensors import DATATYPES
from cass_server.rpc.requests import Layout, Masks

_ID: Final = 3 << 3 | LENGTH_DELIMITED
_RAW: Final = bytes((6 << 3 | LENGTH_DELIMITED,))
_INFER_RESPONSE: Final = bytes((2 << 3 | LENGTH_DELIMITED,))
# Lengths are varints, which readers take if they are longer than they need be, up to five bytes.
_LENGTH_BYTES: Final = 5
_RAW_LENGTH_BYTES: Final = 3
# Elements begin at a multiple of it, but for those behind 2 MiB of others: copies of others take up
# to twice as long.
_ALIGNMENT: Final = 4
_NAME: Final = bytes((1 << 3 | LENGTH_DELIMITED,))
_VERSION: Final = pb.ModelInferResponse(model_version=VERSION).SerializeToString()


class Head(NamedTuple):
    """What an answer has beside its tensors' elements.

    Attributes:
        model: its name.
        id: the field ``id``, or nothing.
        streamed: whether answers are entries of a stream, `ModelStreamInferResponse`.
    """

    model: bytes
    id: bytes
    streamed: bool

    @classmethod
    def of(cls, model: str, *, streamed: bool) -> Head:
        """Without an id."""
        return cls(model.encode(), b"", streamed)

    def with_id(self, identity: bytes) -> Head:
        """With an id, the bytes of it."""
        return self._replace(id=bytes((_ID,)) + varint(len(identity)) + identity)

    def pieces(self, outputs: bytes, sizes: Sequence[int]) -> list[bytes]:
        """What comes before each tensor's elements, whose sizes are given in bytes.

        The outputs are their serialized descriptions.
        """
        headers = [_RAW + varint(size, _RAW_LENGTH_BYTES) for size in sizes]
        rest = self.model + _VERSION + self.id + outputs
        entry = 1 + _LENGTH_BYTES if self.streamed else 0
        # The padding goes into the length of the model's name.
        padding = -(entry + 2 + len(rest) + len(headers[0])) % _ALIGNMENT
        start = _NAME + varint(len(self.model), 1 + padding) + rest
        if self.streamed:
            size = len(start) + sum(map(len, headers)) + sum(sizes)
            start = _INFER_RESPONSE + varint(size, _LENGTH_BYTES) + start
        return [start + headers[0], *headers[1:]]


class MaskAnswer:
    """How an answer to a request for masks lies in memory; a `Layout`.

    Nothing of the answer's size is allocated here: there may be no room for it yet.
    """

    def __init__(self, head: Head, base: Layout, inputs: MaskInputs, names: Sequence[str]) -> None:
        self._head = head
        self._base = base
        tensors = [(f"MASK_{i}", inputs.dtype, one) for i, one in enumerate(inputs.shapes())]
        if inputs.return_owner:
            tensors += [(f"OWNER_{i}", "int32", one) for i, one in enumerate(inputs.shapes())]
        place = {name: i for i, (name, *_) in enumerate(tensors)}
        # Those of the outputs among masks and owner maps, one after the other.
        self._places = [place[name] for name in names or place]
        wanted = [tensors[at] for at in self._places]
        self._outputs = _outputs((name, DATATYPES[dtype], shape) for name, dtype, shape in wanted)
        self._sizes = [
            math.prod(shape) * element_type(dtype).itemsize for _, dtype, shape in wanted
        ]
        self._pieces = head.pieces(self._outputs, self._sizes)

    def with_id(self, identity: bytes) -> MaskAnswer:
        """The same with an id."""
        answer = object.__new__(MaskAnswer)
        pieces = self._head.with_id(identity).pieces(self._outputs, self._sizes)
        answer.__dict__.update(self.__dict__, _pieces=pieces)
        return answer

    def arrays(self) -> Masks:
        """See `Layout`."""
        return self._base.arrays()

    def message(
        self, masks: Sequence[Array], owners: Sequence[Array], weights: Sequence[Array]
    ) -> bytes:
        """See `Layout`; weights are no output of this protocol."""
        arrays = [*masks, *owners]
        return _joined(self._pieces, [arrays[place] for place in self._places])


def loss_answer(head: Head, names: Sequence[str]) -> Callable[[LossInputs, HostLoss], bytes]:
    """What writes the answer to a request for a loss, with outputs of these names, or all."""

    def write(inputs: LossInputs, result: HostLoss) -> bytes:
        loss = result.loss if result.loss.ndim else result.loss.reshape(1)
        found = {
            "LOSS": (DATATYPES[loss.dtype.name], loss),
            "SUM": ("FP64", np.array([result.total])),
            "NORMALIZER": ("FP64", np.array([result.normalizer])),
        }
        if result.grad is not None:
            found["GRAD"] = (DATATYPES[inputs.logits_dtype], result.grad)
        wanted = [(name, *found[name]) for name in names or found]
        outputs = _outputs((name, datatype, array.shape) for name, datatype, array in wanted)
        arrays = [array for *_, array in wanted]
        return _joined(head.pieces(outputs, [array.nbytes for array in arrays]), arrays)

    return write


def error_answer(message: str, identity: bytes) -> bytes:
    """The serialized entry of a stream for a request without an answer."""
    response = pb.ModelInferResponse(id=identity.decode("utf-8", "replace"))
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=response
    ).SerializeToString()


def _joined(pieces: Sequence[bytes], arrays: Sequence[Array]) -> bytes:
    """The pieces, each before its array's elements."""
    parts: list[bytes | memoryview] = []
    for piece, array in zip(pieces, arrays, strict=True):
        parts += (piece, array.data)
    return b"".join(parts)


def _outputs(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    kind = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        outputs=[
            kind(name=name, datatype=datatype, shape=shape) for name, datatype, shape in tensors
        ]
    ).SerializeToString()
