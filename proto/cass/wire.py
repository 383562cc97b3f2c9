"""The one place that turns arrays, boxes and specs into messages and back.

Arrays are read as views of the message's bytes. Decoding checks what the wire adds (lengths of
buffers, unknown enum values) and leaves the rest to the same checks that a local call meets, so
that both give the same errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cass.v1 import cass_pb2 as pb
from cass_core.arrays import (
    LOGIT_DTYPES,
    MASK_DTYPES,
    TARGET_DTYPES,
    Array,
    storage_dtype,
    to_host,
)
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, Sizes, feature_maps, image_sizes
from cass_core.losses import HostLoss, LossInputs
from cass_core.masks import MaskInputs
from cass_core.specs import LossSpec, MaskSpec

_DTYPES = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "uint8": pb.DATA_TYPE_UINT8,
    "float64": pb.DATA_TYPE_FLOAT64,
    "int32": pb.DATA_TYPE_INT32,
}
_DTYPE_NAMES = {number: name for name, number in _DTYPES.items()}
_MAX_DIMENSIONS = 8
# NumPy can describe no larger array, not even one with no elements.
_MAX_BYTES = 2**63 - 1
_BOX_BYTES = 16

# Fields that are numbers or flags, and enums with their names; base_sigma is neither.
_MASK_FIELDS = (
    "patch_size",
    "expansion_ratio",
    "min_size",
    "use_anisotropic_gaussian",
    "small_target_gain",
    "small_target_threshold",
    "size_reference",
    "size_factor_min",
    "size_factor_max",
    "use_subpixel_offset",
    "min_radius",
)
_MASK_ENUMS: dict[str, dict[str, int]] = {
    "decay_type": {"gaussian": pb.DECAY_TYPE_GAUSSIAN, "linear": pb.DECAY_TYPE_LINEAR},
    "temperature": {
        "fixed": pb.TEMPERATURE_FIXED,
        "size_scaled": pb.TEMPERATURE_SIZE_SCALED,
        "small_gain": pb.TEMPERATURE_SMALL_GAIN,
    },
    "merge": {
        "max": pb.MERGE_MAX,
        "sum": pb.MERGE_SUM,
        "clipped_sum": pb.MERGE_CLIPPED_SUM,
    },
}
_LOSS_FIELDS = ("alpha", "beta", "gamma", "weight")
_LOSS_ENUMS: dict[str, dict[str, int]] = {
    "kind": {
        "mse": pb.LOSS_KIND_MSE,
        "bce": pb.LOSS_KIND_BCE,
        "focal": pb.LOSS_KIND_FOCAL,
        "cornernet": pb.LOSS_KIND_CORNERNET,
        "quality_focal": pb.LOSS_KIND_QUALITY_FOCAL,
        "varifocal": pb.LOSS_KIND_VARIFOCAL,
    },
    "reduction": {
        "none": pb.REDUCTION_NONE,
        "mean": pb.REDUCTION_MEAN,
        "sum": pb.REDUCTION_SUM,
        "per_object": pb.REDUCTION_PER_OBJECT,
    },
}


# --- specs -------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def mask_spec_message(spec: MaskSpec) -> pb.MaskSpec:
    """The spec with every field set. The message is shared: do not change it."""
    sigma = spec.base_sigma
    return pb.MaskSpec(
        base_sigma=sigma if isinstance(sigma, tuple) else (sigma,),
        **_spec_fields(spec, _MASK_FIELDS, _MASK_ENUMS),
    )


def mask_spec(message: pb.MaskSpec) -> MaskSpec:
    """The spec of a message, unset fields having their defaults.

    Raises:
        InvalidRequest: a value is unknown or out of its range.
    """
    options = _spec_options(message, "mask_spec", _MASK_FIELDS, _MASK_ENUMS)
    sigma = message.base_sigma
    if len(sigma) == 1:
        options["base_sigma"] = sigma[0]
    elif sigma:
        # More than two are refused; how many more does not matter.
        options["base_sigma"] = tuple(sigma[:3])
    return MaskSpec(**options)


@lru_cache(maxsize=64)
def loss_spec_message(spec: LossSpec) -> pb.LossSpec:
    """The spec with every field set. The message is shared: do not change it."""
    return pb.LossSpec(**_spec_fields(spec, _LOSS_FIELDS, _LOSS_ENUMS))


def loss_spec(message: pb.LossSpec) -> LossSpec:
    """The spec of a message, unset fields having their defaults.

    Raises:
        InvalidRequest: a value is unknown or out of its range.
    """
    return LossSpec(**_spec_options(message, "loss_spec", _LOSS_FIELDS, _LOSS_ENUMS))


def _spec_fields(
    spec: MaskSpec | LossSpec, fields: Iterable[str], enums: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    values = {name: getattr(spec, name) for name in fields}
    return values | {name: numbers[getattr(spec, name)] for name, numbers in enums.items()}


def _spec_options(
    message: pb.MaskSpec | pb.LossSpec,
    prefix: str,
    fields: Iterable[str],
    enums: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    options = {name: getattr(message, name) for name in fields if message.HasField(name)}
    for name, numbers in enums.items():
        number = getattr(message, name)
        if number == 0:
            continue
        known = next((text for text, value in numbers.items() if value == number), None)
        if known is None:
            raise InvalidRequest(f"{prefix}.{name}", f"has the unknown value {number}")
        options[name] = known
    return options


# --- tensors -----------------------------------------------------------------------------------


def tensor_message(array: Array, dtype: str) -> pb.Tensor:
    """An array (bfloat16 as its bits) as a message."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=_DTYPES[dtype], shape=array.shape, data=little.tobytes())


def tensor(message: pb.Tensor, field: str, dtypes: Sequence[str]) -> tuple[Array, str]:
    """The elements of a message, read-only, and the name of their dtype.

    Raises:
        InvalidRequest: the dtype is none of ``dtypes``, or the buffer does not fit the shape.
    """
    name = _DTYPE_NAMES.get(message.dtype)
    if name not in dtypes or name is None:
        got = name or f"the unknown value {message.dtype}"
        raise InvalidRequest(field, f"must have a dtype of {', '.join(dtypes)}, got {got}")
    if len(message.shape) > _MAX_DIMENSIONS:
        raise InvalidRequest(field, f"has {len(message.shape)} dimensions, at most 8 are possible")
    dtype = np.dtype(np.int32) if name == "int32" else storage_dtype(name)
    shape = tuple(message.shape)
    data = message.data  # protobuf makes new bytes at each access
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            field, f"has {len(data)} bytes of data, the shape {list(shape)} needs {expected}"
        )
    if math.prod(side for side in shape if side) * dtype.itemsize > _MAX_BYTES:
        raise InvalidRequest(field, f"has the shape {list(shape)}, which is too large")
    view = np.frombuffer(data, dtype.newbyteorder("<"))
    return view.astype(dtype, copy=False).reshape(shape), name


# --- requests ----------------------------------------------------------------------------------


def mask_request(inputs: MaskInputs) -> pb.GenerateMaskRequest:
    """The request for checked inputs."""
    request = _mask_request(inputs)
    request.dtype = _DTYPES[inputs.dtype]
    request.return_owner = inputs.return_owner
    return request


def _mask_request(inputs: MaskInputs) -> pb.GenerateMaskRequest:
    xyxy, _ = to_host(inputs.boxes.xyxy)
    sizes = to_host(inputs.sizes)[0].astype(np.int64)
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=xyxy.astype("<f4", copy=False).tobytes(), counts=inputs.boxes.counts.tolist()
        ),
        image_sizes=pb.ImageSizes(heights=sizes[:, 0].tolist(), widths=sizes[:, 1].tolist()),
        feature_maps=[pb.FeatureMap(height=h, width=w) for h, w in inputs.maps],
        mask_spec=mask_spec_message(inputs.spec),
    )


def mask_inputs(request: pb.GenerateMaskRequest) -> MaskInputs:
    """The checked inputs of a request.

    Raises:
        InvalidRequest: the request cannot be used; the field is named as in a local call.
    """
    dtype = "float32" if request.dtype == 0 else _DTYPE_NAMES.get(request.dtype)
    if dtype not in MASK_DTYPES or dtype is None:
        got = dtype or f"the unknown value {request.dtype}"
        raise InvalidRequest("dtype", f"must be one of {', '.join(MASK_DTYPES)}, got {got}")
    boxes = _boxes(request.boxes)
    sizes = _sizes(request.image_sizes, boxes.num_images)
    maps, _ = feature_maps([_feature_map(m) for m in request.feature_maps])
    if not maps:
        raise InvalidRequest("feature_map", "is missing")
    spec = mask_spec(request.mask_spec)
    return MaskInputs.checked(
        boxes, sizes, maps, single=False, spec=spec, dtype=dtype, return_owner=request.return_owner
    )


def _boxes(message: pb.BoxBatch) -> BoxBatch:
    data = message.xyxy
    if len(data) % _BOX_BYTES:
        raise InvalidRequest(
            "boxes.xyxy", f"has {len(data)} bytes, which is not a multiple of {_BOX_BYTES}"
        )
    xyxy = np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(-1, 4)
    return BoxBatch(xyxy, np.array(message.counts, np.int64))


def _sizes(message: pb.ImageSizes, num_images: int) -> Sizes:
    heights, widths = message.heights, message.widths
    if len(heights) != len(widths):
        raise InvalidRequest("image_size", f"has {len(heights)} heights, but {len(widths)} widths")
    if len(heights) == 1:
        return image_sizes((heights[0], widths[0]), num_images)
    return image_sizes(np.array([heights, widths], np.float64).T, num_images)


def _feature_map(message: pb.FeatureMap) -> FeatureMap:
    return message.height, message.width


def loss_request(inputs: LossInputs) -> pb.ComputeLossRequest:
    """The request for checked inputs."""
    request = pb.ComputeLossRequest(
        logits=tensor_message(inputs.logits, inputs.logits_dtype),
        loss_spec=loss_spec_message(inputs.spec),
        num_boxes=inputs.num_boxes,
        return_grad=inputs.return_grad,
    )
    if inputs.target is not None:
        request.target.CopyFrom(tensor_message(inputs.target, inputs.target_dtype))
    if inputs.mask is not None:
        request.mask.CopyFrom(_mask_request(inputs.mask))
    return request


def loss_inputs(request: pb.ComputeLossRequest) -> LossInputs:
    """The checked inputs of a request.

    Raises:
        InvalidRequest: the request cannot be used; the field is named as in a local call.
    """
    logits, logits_dtype = tensor(request.logits, "logits", LOGIT_DTYPES)
    if logits.ndim == 0:
        raise InvalidRequest("logits", "must have at least one dimension")
    source = request.WhichOneof("source")
    target, target_dtype, mask = None, "", None
    if source == "target":
        target, target_dtype = tensor(request.target, "target", TARGET_DTYPES)
    elif source == "mask":
        if request.mask.dtype or request.mask.return_owner:
            raise InvalidRequest("mask", "must not set dtype or return_owner for a loss")
        if len(request.mask.feature_maps) != 1:
            raise InvalidRequest("feature_map", "must be one (h, w) here")
        mask = mask_inputs(request.mask)
    return LossInputs.checked(
        logits,
        logits_dtype,
        target,
        target_dtype,
        mask,
        loss_spec(request.loss_spec),
        request.num_boxes if request.HasField("num_boxes") else None,
        request.return_grad,
    )


# --- answers -----------------------------------------------------------------------------------


def mask_response(
    masks: Sequence[Array], owners: Sequence[Array], dtype: str
) -> pb.GenerateMaskResponse:
    """The answer with masks of this dtype."""
    return pb.GenerateMaskResponse(
        masks=[tensor_message(mask, dtype) for mask in masks],
        owners=[tensor_message(owner, "int32") for owner in owners],
    )


def masks_and_owners(response: pb.GenerateMaskResponse) -> tuple[list[Array], list[Array]]:
    """The arrays of an answer, writable, bfloat16 as its bits."""
    masks = [_answer(m, "masks", MASK_DTYPES) for m in response.masks]
    return masks, [_answer(m, "owners", ("int32",)) for m in response.owners]


def loss_response(result: HostLoss, logits_dtype: str) -> pb.ComputeLossResponse:
    """The answer with a loss."""
    response = pb.ComputeLossResponse(
        loss=tensor_message(result.loss, result.loss.dtype.name),
        sum=result.total,
        normalizer=result.normalizer,
    )
    if result.grad is not None:
        response.grad.CopyFrom(tensor_message(result.grad, logits_dtype))
    return response


def loss_result(response: pb.ComputeLossResponse) -> HostLoss:
    """The arrays of an answer, writable, bfloat16 as its bits."""
    grad = _answer(response.grad, "grad", LOGIT_DTYPES) if response.HasField("grad") else None
    loss = _answer(response.loss, "loss", ("float32", "float64"))
    return HostLoss(loss, response.sum, response.normalizer, grad)


def _answer(message: pb.Tensor, field: str, dtypes: Sequence[str]) -> Array:
    view, _ = tensor(message, field, dtypes)
    return view.copy()  # the message's bytes cannot be written to; users' arrays can
