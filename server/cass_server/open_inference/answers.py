"""Answers as serialized `ModelInferResponse`s, each tensor copied once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cass.codec.wire_format import LENGTH_DELIMITED, varint
from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.arrays import Array
from cass_core.inputs import LossInputs
from cass_core.results import HostLoss
from cass_server.open_inference.models import VERSION
from cass_server.open_inference.tensors import DATATYPES
from cass_server.rpc.requests import Layout, Masks

_ID: Final = 3 << 3 | LENGTH_DELIMITED
_RAW: Final = bytes((6 << 3 | LENGTH_DELIMITED,))
_INFER_RESPONSE: Final = bytes((2 << 3 | LENGTH_DELIMITED,))


class Head(NamedTuple):
    """What an answer has beside its tensors' elements.

    Attributes:
        before: the bytes before the id, of the model's name and version.
        id: the field ``id``, or nothing.
        streamed: whether answers are entries of a stream, `ModelStreamInferResponse`.
    """

    before: bytes
    id: bytes
    streamed: bool

    @classmethod
    def of(cls, model: str, *, streamed: bool) -> Head:
        """Without an id."""
        before = pb.ModelInferResponse(model_name=model, model_version=VERSION)
        return cls(before.SerializeToString(), b"", streamed)

    def with_id(self, identity: bytes) -> Head:
        """With an id, the bytes of it."""
        return self._replace(id=bytes((_ID,)) + varint(len(identity)) + identity)

    def pieces(self, outputs: bytes, sizes: Sequence[int]) -> list[bytes]:
        """What comes before each tensor's elements, whose sizes are given in bytes.

        The outputs are their serialized descriptions.
        """
        headers = [_RAW + varint(size) for size in sizes]
        start = self.before + self.id + outputs
        if self.streamed:
            size = len(start) + sum(map(len, headers)) + sum(sizes)
            start = _INFER_RESPONSE + varint(size) + start
        return [start + headers[0], *headers[1:]]


class MaskAnswer:
    """How an answer to a request for masks lies in memory; a `Layout`."""

    def __init__(self, head: Head, base: Layout, names: Sequence[str], dtype: str) -> None:
        self._head = head
        self._base = base
        masks, owners, _ = base.arrays()
        place = {f"MASK_{i}": i for i in range(len(masks))}
        place |= {f"OWNER_{i}": len(masks) + i for i in range(len(owners))}
        # Those of the outputs among masks and owner maps, one after the other.
        self._places = [place[name] for name in names or place]
        datatypes = [DATATYPES[dtype]] * len(masks) + ["INT32"] * len(owners)
        arrays = [*masks, *owners]
        self._outputs = _outputs(
            (name, datatypes[place[name]], arrays[place[name]].shape) for name in names or place
        )
        self._sizes = [arrays[place].nbytes for place in self._places]
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
