"""Reads messages into checked inputs and results; `cass.codec.encode` writes them.

Arrays are read as views of the serialized message where `cass.codec.decode` has taken them out of
it, else from the parsed one. Decoding checks what the wire adds (lengths of buffers, unknown enum
values) and leaves the rest to the same checks that a local call meets, so that both give the same
errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cass.codec.decode import Views
from cass.dtypes import NAMES, element_type
from cass.specs import loss_spec, mask_spec, weight_spec
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES, Array
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting, check_weights
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, Sizes, feature_maps, image_sizes
from cass_core.inputs import LossInputs, MaskInputs, check_options, check_ranges
from cass_core.results import HostLoss
from cass_core.specs import MaskSpec

_MAX_DIMENSIONS = 8
# NumPy can describe no larger array, not even one with no elements.
_MAX_BYTES = 2**63 - 1
_BOX_BYTES = 16
_FLOAT32 = np.dtype(np.float32)
_FLOATS = ("float32",)
_NO_VIEWS: Views = {}

# Of a request for masks: what its weights are made from.
_WEIGHT_FIELDS = ("weight_spec", "valid_region", "ignore", "box_weights")


def tensor(
    message: pb.Tensor, field: str, dtypes: Sequence[str], view: memoryview | None = None
) -> tuple[Array, str]:
    """The elements of a message, read-only, and the name of their dtype.

    Errors name the field. The view is the tensor's data, if that has been taken out of it.
    """
    name = NAMES.get(message.dtype)
    if name not in dtypes or name is None:
        got = name or f"the unknown value {message.dtype}"
        raise InvalidRequest(field, f"must have a dtype of {', '.join(dtypes)}, got {got}")
    shape = tuple(message.shape)
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidRequest(field, f"has {len(shape)} dimensions, at most 8 are possible")
    dtype = element_type(name)
    # Protobuf makes new bytes at each access.
    data = message.data if view is None else view
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            field, f"has {len(data)} bytes of data, the shape {list(shape)} needs {expected}"
        )
    if not expected and math.prod(side for side in shape if side) * dtype.itemsize > _MAX_BYTES:
        raise InvalidRequest(field, f"has the shape {list(shape)}, which is too large")
    return _aligned(np.frombuffer(data, dtype)).reshape(shape), name


def _aligned(array: Array) -> Array:
    """The array, or a copy where it lies across the machine's words.

    Kernels are compiled for aligned arrays; for others they would be compiled anew, for seconds.
    """
    return array if array.flags.aligned else array.copy()


def mask_inputs(
    request: pb.GenerateMaskRequest, views: Views = _NO_VIEWS, at: str = "boxes"
) -> MaskInputs:
    """The checked inputs of a request.

    Args:
        request: the request.
        views: what has been taken out of the message that brought it.
        at: the name of its boxes there.

    Raises:
        InvalidRequest: the request cannot be used; the field is named as in a local call.
    """
    # By way of a list: NumPy reads protobuf's sequence far more slowly.
    boxes = mask_boxes(boxes_data(request, views, at), list(request.boxes.counts))
    options = mask_options(request, boxes.num_images)
    return MaskInputs(boxes, *options, weighting(request, boxes, options[3], views, at))


def mask_options(
    request: pb.GenerateMaskRequest, num_images: int
) -> tuple[Sizes, list[FeatureMap], bool, MaskSpec, str, bool]:
    """The fields of `MaskInputs` after the boxes, checked; raises as `mask_inputs`."""
    dtype = "float32" if request.dtype == 0 else NAMES.get(request.dtype)
    if dtype not in MASK_DTYPES or dtype is None:
        got = dtype or f"the unknown value {request.dtype}"
        raise InvalidRequest("dtype", f"must be one of {', '.join(MASK_DTYPES)}, got {got}")
    sizes = _sizes(request.image_sizes, num_images)
    sizes.flags.writeable = False
    maps, _ = feature_maps([(m.height, m.width) for m in request.feature_maps])
    if not maps:
        raise InvalidRequest("feature_map", "is missing")
    check_ranges(len(request.mask_spec.level_ranges) or None, maps)
    spec = mask_spec(request.mask_spec)
    check_options(num_images, maps, False, spec, dtype, request.return_owner)
    return sizes, maps, False, spec, dtype, request.return_owner


def weighting(
    request: pb.GenerateMaskRequest,
    boxes: BoxBatch,
    spec: MaskSpec,
    views: Views = _NO_VIEWS,
    at: str = "boxes",
) -> Weighting | None:
    """What the weights of a request are made from; None where none are requested.

    A loss, which does not set ``return_weights``, requests them by giving it.
    """
    given = any(map(request.HasField, _WEIGHT_FIELDS))
    if not given and not request.return_weights:
        return None
    prefix = at.removesuffix("boxes")
    region = ignore = box_weights = None
    if request.HasField("valid_region"):
        view = _only(views, f"{prefix}valid_region")
        region, _ = tensor(request.valid_region, "valid_region", _FLOATS, view)
    if request.HasField("ignore"):
        try:
            ignore = mask_boxes(ignored_data(request, views, at), list(request.ignore.counts))
        except InvalidRequest as error:
            field = f"ignore{error.field.removeprefix('boxes')}"
            raise InvalidRequest(field, error.reason) from None
    if request.HasField("box_weights"):
        view = _only(views, f"{prefix}box_weights")
        box_weights, _ = tensor(request.box_weights, "box_weights", _FLOATS, view)
    options = weight_spec(request.weight_spec)
    return Weighting.check(boxes, spec, options, region, ignore, box_weights)


def take_weighting(request: pb.GenerateMaskRequest) -> pb.GenerateMaskRequest | None:
    """Moves what `weighting` reads, if there is any, to a message of its own.

    Whether weights are requested is left with the request too.
    """
    given = [name for name in _WEIGHT_FIELDS if request.HasField(name)]
    if not given and not request.return_weights:
        return None
    taken = pb.GenerateMaskRequest(return_weights=request.return_weights)
    for name in given:
        getattr(taken, name).CopyFrom(getattr(request, name))
        request.ClearField(name)
    return taken


def ignored_data(
    request: pb.GenerateMaskRequest, views: Views = _NO_VIEWS, at: str = "boxes"
) -> bytes | memoryview:
    """The bytes of a request's ignored boxes; see `mask_inputs`."""
    return _only(views, f"{at.removesuffix('boxes')}ignore") or request.ignore.xyxy


def boxes_data(
    request: pb.GenerateMaskRequest, views: Views = _NO_VIEWS, at: str = "boxes"
) -> bytes | memoryview:
    """The bytes of a request's boxes; see `mask_inputs`."""
    lifted = views.get(at)
    return lifted[0] if lifted else request.boxes.xyxy


def mask_boxes(xyxy: bytes | memoryview, counts: Sequence[int]) -> BoxBatch:
    """The checked boxes of a request; raises as `mask_inputs`."""
    if len(xyxy) % _BOX_BYTES:
        raise InvalidRequest(
            "boxes.xyxy", f"has {len(xyxy)} bytes, which is not a multiple of {_BOX_BYTES}"
        )
    boxes = _aligned(np.frombuffer(xyxy, _FLOAT32)).reshape(-1, 4)
    return BoxBatch.packed(boxes, counts)


def _sizes(message: pb.ImageSizes, num_images: int) -> Sizes:
    heights, widths = message.heights, message.widths
    if len(heights) != len(widths):
        raise InvalidRequest("image_size", f"has {len(heights)} heights, but {len(widths)} widths")
    if len(heights) == 1:
        return image_sizes((heights[0], widths[0]), num_images)
    return image_sizes(np.array([heights, widths], np.float64).T, num_images)


def loss_inputs(request: pb.ComputeLossRequest, views: Views = _NO_VIEWS) -> LossInputs:
    """The checked inputs of a request; arguments and errors as of `mask_inputs`."""
    logits, logits_dtype = tensor(request.logits, "logits", LOGIT_DTYPES, _only(views, "logits"))
    if logits.ndim == 0:
        raise InvalidRequest("logits", "must have at least one dimension")
    source = request.WhichOneof("source")
    target, target_dtype, mask = None, "", None
    if source == "target":
        target, target_dtype = tensor(
            request.target, "target", TARGET_DTYPES, _only(views, "target")
        )
    elif source == "mask":
        if request.mask.dtype or request.mask.return_owner or request.mask.return_weights:
            raise InvalidRequest("mask", "must set nothing of its answer for a loss")
        if len(request.mask.feature_maps) != 1:
            raise InvalidRequest("feature_map", "must be one (h, w) here")
        mask = mask_inputs(request.mask, views, "mask.boxes")
    weights = None
    if request.HasField("weights"):
        view = _only(views, "weights")
        weights, _ = tensor(request.weights, "weights", _FLOATS, view)
        check_weights(weights, "weights")
    return LossInputs.checked(
        logits,
        logits_dtype,
        target,
        target_dtype,
        mask,
        loss_spec(request.loss_spec),
        request.num_boxes if request.HasField("num_boxes") else None,
        request.return_grad,
        weights,
    )


def masks_of(
    response: pb.GenerateMaskResponse, views: Views = _NO_VIEWS, at: str = ""
) -> tuple[list[Array], list[Array], list[Array]]:
    """Masks, owners and weights of an answer, writable, bfloat16 as its bits.

    The views are what has been taken out of the message that brought it, whose name there, with a
    dot at its end, is ``at``.
    """

    def arrays(field: str, dtypes: Sequence[str]) -> list[Array]:
        lifted = views.get(f"{at}{field}")
        return [
            _answer(message, field, dtypes, lifted[i] if lifted else None)
            for i, message in enumerate(getattr(response, field))
        ]

    return arrays("masks", MASK_DTYPES), arrays("owners", ("int32",)), arrays("weights", _FLOATS)


def loss_result(response: pb.ComputeLossResponse, views: Views = _NO_VIEWS) -> HostLoss:
    """The arrays of an answer, writable, bfloat16 as its bits; see `masks_of`."""
    grad = None
    if response.HasField("grad"):
        grad = _answer(response.grad, "grad", LOGIT_DTYPES, _only(views, "grad"))
    loss = _answer(response.loss, "loss", ("float32", "float64"), _only(views, "loss"))
    return HostLoss(loss, response.sum, response.normalizer, grad)


def _answer(
    message: pb.Tensor, field: str, dtypes: Sequence[str], view: memoryview | None
) -> Array:
    # The message's bytes cannot be written to; users' arrays can.
    return tensor(message, field, dtypes, view)[0].copy()


def _only(views: Mapping[str, Sequence[memoryview]], name: str) -> memoryview | None:
    found = views.get(name)
    return found[0] if found else None
