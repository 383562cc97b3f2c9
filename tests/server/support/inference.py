"""Requests of the Open Inference Protocol written out as messages, and their answers as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.arrays import Array

_DATATYPES = {
    "float32": "FP32",
    "float16": "FP16",
    "float64": "FP64",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint16": "BF16",
}
_DTYPES = {datatype: name for name, datatype in _DATATYPES.items()}
_KINDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def box_inputs(
    boxes: Sequence[Sequence[float]] = ((8, 8, 24, 24),),
    counts: Sequence[int] = (1,),
    sizes: Sequence[tuple[int, int]] = ((32, 32),),
    maps: Sequence[tuple[int, int]] = ((4, 4),),
) -> dict[str, Array]:
    """The inputs of ``cass_mask``."""
    return {
        "BOXES": np.array(boxes, np.float32).reshape(-1, 4),
        "COUNTS": np.array(counts, np.int64),
        "IMAGE_SIZES": np.array(sizes, np.int32).reshape(-1, 2),
        "FEATURE_MAPS": np.array(maps, np.int32).reshape(-1, 2),
    }


def infer_request(
    inputs: Mapping[str, Array],
    *,
    model: str = "cass_mask",
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = (),
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request with raw contents; arrays of uint16 are BF16."""
    tensor = pb.ModelInferRequest.InferInputTensor
    request = pb.ModelInferRequest(
        model_name=model,
        inputs=[
            tensor(name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape)
            for name, array in inputs.items()
        ],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
        raw_input_contents=[array.tobytes() for array in inputs.values()],
        **fields,
    )
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], _KINDS[type(value)], value)
    return request


def typed(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """The same request with its tensors as numbers."""
    copy = pb.ModelInferRequest()
    copy.CopyFrom(request)
    del copy.raw_input_contents[:]
    lists = {
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "UINT8": "uint_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
    }
    for tensor, raw in zip(copy.inputs, request.raw_input_contents, strict=True):
        numbers = np.frombuffer(raw, _DTYPES[tensor.datatype]).tolist()
        getattr(tensor.contents, lists[tensor.datatype]).extend(numbers)
    return copy


def arrays_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The tensors of an answer by their names, in their order."""
    return {
        tensor.name: np.frombuffer(raw, _DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
