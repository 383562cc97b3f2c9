"""The two models: their names, their inputs and outputs, and what the protocol says of them."""

from __future__ import annotations

from typing import Final, NamedTuple

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_server.exceptions import NotFound

MASK: Final = "cass_mask"
LOSS: Final = "cass_loss"
VERSION: Final = "1"
PLATFORM: Final = "cass"


class Tensor(NamedTuple):
    """An input or an output: -1 stands for a side of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


_BOXES: Final = (
    Tensor("BOXES", "FP32", (-1, 4)),
    Tensor("COUNTS", "INT32", (-1,)),
    Tensor("IMAGE_SIZES", "INT32", (-1, 2)),
    Tensor("FEATURE_MAPS", "INT32", (-1, 2)),
)
MASK_INPUTS: Final = tuple(tensor.name for tensor in _BOXES)

_INPUTS: Final = {
    MASK: _BOXES,
    LOSS: (
        Tensor("LOGITS", "FP32", (-1, -1)),
        Tensor("TARGET", "FP32", (-1, -1), True),
        *(tensor._replace(optional=True) for tensor in _BOXES),
        Tensor("WEIGHTS", "FP32", (-1, -1), True),
    ),
}
# Further levels have MASK_1 and so on.
_OUTPUTS: Final = {
    MASK: (Tensor("MASK_0", "FP32", (-1, -1, -1)), Tensor("OWNER_0", "INT32", (-1, -1, -1))),
    LOSS: (
        Tensor("LOSS", "FP32", (-1,)),
        Tensor("SUM", "FP64", (1,)),
        Tensor("NORMALIZER", "FP64", (1,)),
        Tensor("GRAD", "FP32", (-1, -1)),
    ),
}


def is_known(name: str, version: str) -> bool:
    """Whether there is such a model; the version may be empty."""
    return name in _INPUTS and version in ("", VERSION)


def check_known(name: str, version: str) -> None:
    """Raises `NotFound` for a model that there is not."""
    if not is_known(name, version):
        shown = f"{name[:80]!r}" + (f" of version {version[:20]!r}" if version else "")
        raise NotFound(f"there is no model {shown}: {MASK} and {LOSS} have version {VERSION}")


def metadata(name: str) -> pb.ModelMetadataResponse:
    """What ``ModelMetadata`` answers."""
    kind = pb.ModelMetadataResponse.TensorMetadata
    inputs, outputs = (
        [kind(name=one.name, datatype=one.datatype, shape=one.shape) for one in side[name]]
        for side in (_INPUTS, _OUTPUTS)
    )
    return pb.ModelMetadataResponse(
        name=name, versions=[VERSION], platform=PLATFORM, inputs=inputs, outputs=outputs
    )


def config(name: str) -> pb.ModelConfigResponse:
    """What ``ModelConfig`` answers."""
    inputs = [
        pb.ModelInput(name=one.name, data_type=_type(one), dims=one.shape, optional=one.optional)
        for one in _INPUTS[name]
    ]
    outputs = [
        pb.ModelOutput(name=one.name, data_type=_type(one), dims=one.shape)
        for one in _OUTPUTS[name]
    ]
    made = pb.ModelConfig(
        name=name, platform=PLATFORM, backend=PLATFORM, input=inputs, output=outputs
    )
    return pb.ModelConfigResponse(config=made)


def _type(tensor: Tensor) -> pb.DataType:
    number: pb.DataType = getattr(pb, f"TYPE_{tensor.datatype}")
    return number
