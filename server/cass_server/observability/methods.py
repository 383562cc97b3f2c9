"""The RPCs that are counted, by their names without a service, and the service of each."""

from __future__ import annotations

from typing import Final

from cass.contract import SERVICE_NAME
from cass.inference import grpc_predict_v2_pb2 as inference

INFERENCE: Final = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"]
INFERENCE_NAME: Final[str] = INFERENCE.full_name

COMPUTED_METHODS: Final = (
    "GenerateMask",
    "ComputeLoss",
    "StreamMasks",
    "ModelInfer",
    "ModelStreamInfer",
)
METHODS: Final = (
    *COMPUTED_METHODS,
    "GetServerInfo",
    *(method.name for method in INFERENCE.methods if method.name not in COMPUTED_METHODS),
)


def full_name(method: str) -> str:
    """The name with its service.

    Example:
        >>> full_name("ModelInfer")
        'inference.GRPCInferenceService/ModelInfer'
    """
    service = INFERENCE_NAME if method in INFERENCE.methods_by_name else SERVICE_NAME
    return f"{service}/{method}"
