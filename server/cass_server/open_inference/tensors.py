"""The input tensors of a request: their datatypes, shapes and bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cass.codec.decode import Tree, Views, tree_of
from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.arrays import Array
from cass_core.errors import InvalidRequest
from cass_server.open_inference.parameters import parameters

DATATYPES: Final = {
    "float32": "FP32",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float64": "FP64",
    "uint8": "UINT8",
    "int32": "INT32",
}
"""The protocol's names of our dtypes."""
NAMES: Final = {datatype: name for name, datatype in DATATYPES.items()}
_BYTES: Final = {"FP32": 4, "FP16": 2, "BF16": 2, "FP64": 8, "UINT8": 1, "INT32": 4, "INT64": 8}
INTEGERS: Final[Mapping[str, np.dtype[Any]]] = {
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}
# Typed contents by the datatype; there are none for FP16 and BF16.
_CONTENTS: Final = {
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "UINT8": ("uint_contents", np.uint8),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
}
_MAX_SIDE: Final = 2**32 - 1
_MAX_BYTES: Final = 2**63 - 1
_MAX_UINT8: Final = 2**8 - 1

TREE: Final[Tree] = tree_of(
    pb.ModelInferRequest.DESCRIPTOR,  # type: ignore[arg-type]
    ("inputs[].contents.fp32_contents",),
)
"""What `lift` takes out of a request whose tensors come as numbers."""


class Input(NamedTuple):
    """An input tensor; its elements are the one of this number among the raw contents."""

    name: str
    number: int
    datatype: str
    shape: tuple[int, ...]
    size: int
    """Bytes of all elements."""

    def check_shape(self, sides: Sequence[int | None], words: str) -> int:
        """The first side of a shape with these sides (None: any); ``words`` are for the error."""
        if len(self.shape) != len(sides) or any(
            side not in (None, given) for side, given in zip(sides, self.shape, strict=True)
        ):
            raise InvalidRequest(
                self.name, f"must have the shape {words}, got {_shown(self.shape)}"
            )
        return self.shape[0]

    def integers(self, raw: Sequence[bytes | memoryview]) -> Array:
        """The elements of a tensor of whole numbers."""
        array: Array = np.frombuffer(raw[self.number], INTEGERS[self.datatype])
        return array


def read_inputs(
    message: pb.ModelInferRequest, kinds: Mapping[str, Sequence[str]]
) -> dict[str, Input]:
    """The inputs of a request by their names.

    Args:
        message: the request.
        kinds: the datatypes of each input that there may be.

    Raises:
        InvalidRequest: an input is unknown, comes twice, or is of another datatype.
    """
    inputs: dict[str, Input] = {}
    for number, tensor in enumerate(message.inputs):
        name = tensor.name
        if name not in kinds:
            raise InvalidRequest("inputs", f"{name!r} is no input: there are {', '.join(kinds)}")
        if name in inputs:
            raise InvalidRequest(name, "comes twice")
        parameters(tensor.parameters, (), f"{name}.")
        if tensor.datatype not in kinds[name]:
            names = ", ".join(kinds[name])
            raise InvalidRequest(name, f"must have a datatype of {names}, got {tensor.datatype!r}")
        shape = tuple(tensor.shape)
        size = math.prod(side or 1 for side in shape) * _BYTES[tensor.datatype]
        if len(shape) > 8 or not all(0 <= side <= _MAX_SIDE for side in shape) or size > _MAX_BYTES:
            raise InvalidRequest(name, f"cannot have the shape {_shown(shape)}")
        size = size if 0 not in shape else 0
        inputs[name] = Input(name, number, tensor.datatype, shape, size)
    return inputs


def typed_contents(message: pb.ModelInferRequest, views: Views) -> list[bytes | memoryview] | None:
    """The elements of each input where they come as numbers; None if there are none of them.

    The views are what `lift` has taken out of the message.
    """
    lifted = iter(views.get("inputs.contents", ()))
    contents: list[bytes | memoryview] = []
    for tensor in message.inputs:
        view = next(lifted, b"") if views and tensor.HasField("contents") else b""
        name, dtype = _CONTENTS.get(tensor.datatype, ("", np.uint8))
        numbers = getattr(tensor.contents, name) if name else ()
        if len(view):
            if name != "fp32_contents":
                raise InvalidRequest(tensor.name, f"has fp32_contents for {tensor.datatype}")
            contents.append(view)
            continue
        if dtype is np.uint8:  # which come as numbers of 32 bits, and NumPy takes modulo 256
            largest = np.array(numbers, np.uint32).max(initial=0)
            if largest > _MAX_UINT8:
                raise InvalidRequest(tensor.name, f"has {largest}, beyond {tensor.datatype}")
        contents.append(np.array(numbers, dtype).tobytes())
    return contents if any(map(len, contents)) else None


def check_raw(
    inputs: Sequence[Input], raw: Sequence[bytes | memoryview]
) -> Sequence[bytes | memoryview]:
    """The elements of each input; raises `InvalidRequest` unless they fit its shape."""
    if len(raw) != len(inputs):
        if raw:
            raise InvalidRequest(
                "raw_input_contents", f"has {len(raw)} entries, but there are {len(inputs)} inputs"
            )
        raw = [b""] * len(inputs)
    for one in inputs:  # in the order of their numbers
        if len(raw[one.number]) != one.size:
            raise InvalidRequest(
                one.name,
                f"has {len(raw[one.number])} bytes of data, the shape {_shown(one.shape)}"
                f" needs {one.size}",
            )
    return raw


def _shown(shape: Sequence[int]) -> str:
    return str(list(shape[:9]))
