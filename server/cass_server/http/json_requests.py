"""Requests in JSON, read into those that an engine computes; their answers are JSON too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final, TypeVar, cast, get_args

from pydantic_core import from_json, to_json

from cass.codec.encode import loss_request, mask_request
from cass.convert import mask_boxes
from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES, Array
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import check_weights
from cass_core.cpu.small import SmallFill
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, feature_maps, image_sizes
from cass_core.inputs import LossInputs, MaskInputs, check_options, check_ranges
from cass_core.results import HostLoss
from cass_core.specs import LossSpec, MaskSpec, WeightSpec, check_flag
from cass_server.config.limits import Limits
from cass_server.http.arrays import (
    MAX_LISTED,
    Encoding,
    array_json,
    array_of,
    check_names,
    shown,
)
from cass_server.rpc.requests import (
    Layout,
    LossRequest,
    MaskReader,
    MaskRequest,
    Masks,
    read_loss,
)

S = TypeVar("S", MaskSpec, LossSpec)

PRESETS: Final = ("recommended", "improved", "baseline", "cas_detr")
SPEC_FIELDS: Final[Mapping[type, tuple[str, ...]]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in (MaskSpec, LossSpec, WeightSpec)
}
_WEIGHT_INPUTS: Final = ("weight_spec", "valid_region", "ignore", "box_weights")
_NEEDED: Final = ("boxes", "image_size", "feature_map")
_INPUTS: Final = (*_NEEDED, "mask_spec", *_WEIGHT_INPUTS)
MASK_FIELDS: Final = (*_INPUTS, "dtype", "return_owner", "return_weights", "encoding")
LOSS_FIELDS: Final = (
    *("logits", "target", "mask", "weights", "loss_spec", "num_boxes"),
    *("return_grad", "encoding"),
)
_FLOATS: Final = ("float32",)
_MOST_LETTERS: Final = 500
# Lists and objects in a request beside its boxes.
_MORE_BRACKETS: Final = 1 << 16


class JsonMaskReader:
    """Reads JSON requests for masks; raises `InvalidRequest`."""

    def __init__(
        self, limits: Limits, small_fill: Callable[[MaskInputs], SmallFill | None] | None
    ) -> None:
        self._limits = limits
        self._read = MaskReader(limits, small_fill)

    def __call__(self, data: bytes) -> MaskRequest:
        """The request in a text."""
        with _short_errors():
            return self._request(check_names(_parsed(data, self._limits), MASK_FIELDS))

    def _request(self, given: Mapping[str, Any]) -> MaskRequest:
        encoding = _encoding(given)
        dtype = given.get("dtype", "float32")
        if dtype not in MASK_DTYPES:
            choices = ", ".join(MASK_DTYPES)
            raise InvalidRequest("dtype", f"must be one of {choices}, got {shown(dtype)}")
        if dtype == "bfloat16" and encoding == "list":
            raise InvalidRequest("dtype", "bfloat16 needs the encoding base64")
        owner = check_flag(given.get("return_owner", False), "return_owner")
        wanted = check_flag(given.get("return_weights", False), "return_weights")
        inputs = _mask_inputs(given, dtype, owner, wanted, self._limits)
        request = self._read(mask_request(inputs))
        plan, weighted = request.plan, inputs.weighting is not None
        _check_listed(encoding, plan.patches * (1 + owner + weighted))
        layout = _MaskAnswer(plan.layout, dtype, encoding)
        # Base64 takes a third more, beside the array, and once more in the whole text.
        size = plan.answer_bytes * 11 // 3
        return request._replace(plan=plan._replace(layout=layout, answer_bytes=size))


def read_json_loss(data: bytes, limits: Limits) -> LossRequest:
    """The request for a loss in a text; raises `InvalidRequest`."""
    with _short_errors():
        return _loss_request(check_names(_parsed(data, limits), LOSS_FIELDS), limits)


def _loss_request(given: Mapping[str, Any], limits: Limits) -> LossRequest:
    encoding = _encoding(given)
    if "logits" not in given:
        raise InvalidRequest("logits", "is missing")
    logits, logits_dtype = array_of(given["logits"], "logits", LOGIT_DTYPES)
    if logits.ndim == 0:
        raise InvalidRequest("logits", "must have at least one dimension")
    target, target_dtype, mask, weights = None, "", None, None
    if ("target" in given) == ("mask" in given):
        raise InvalidRequest("target", "give either a target or a mask's boxes")
    if "target" in given:
        target, target_dtype = array_of(given["target"], "target", TARGET_DTYPES)
    else:
        members = check_names(given["mask"], _INPUTS, "mask.")
        wanted = any(name in members for name in _WEIGHT_INPUTS)
        mask = _mask_inputs(members, "float32", False, wanted, limits)
        if len(mask.maps) != 1:
            raise InvalidRequest("feature_map", "must be one (h, w) here")
    if "weights" in given:
        weights, _ = array_of(given["weights"], "weights", _FLOATS)
        check_weights(weights, "weights")
    spec = _spec(LossSpec, "loss_spec", given.get("loss_spec"))
    grad = check_flag(given.get("return_grad", False), "return_grad")
    number = given.get("num_boxes")
    inputs = LossInputs.checked(
        *(logits, logits_dtype, target, target_dtype, mask, spec, number, grad, weights)
    )
    request = read_loss(loss_request(inputs), limits)
    _check_listed(encoding, logits.size * (grad + (spec.reduction == "none")))
    if encoding == "list" and logits_dtype == "bfloat16" and grad:
        raise InvalidRequest("encoding", "must be base64 for the gradient of bfloat16 logits")
    return request._replace(write=_LossAnswer(encoding))


def _parsed(data: bytes, limits: Limits) -> Any:
    # Each takes some ninety bytes and a look of the garbage collector. A box is one, and so is a
    # row of logits.
    most = 2 * limits.boxes + _MORE_BRACKETS
    if data.count(b"[") + data.count(b"{") > most:
        raise InvalidRequest("request", f"has more than {most} lists and objects; send base64")
    try:
        return from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InvalidRequest("request", f"is not JSON: {error}") from None


@contextmanager
def _short_errors() -> Iterator[None]:
    """Within it, errors quote a limited part of a request, however long that is."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(_short(error.field), _short(error.reason)) from None


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _encoding(given: Mapping[str, Any]) -> Encoding:
    encoding = given.get("encoding", "list")
    if encoding not in get_args(Encoding):
        raise InvalidRequest("encoding", f"must be list or base64, got {shown(encoding)}")
    return cast(Encoding, encoding)


def _check_listed(encoding: Encoding, numbers: int) -> None:
    if encoding == "list" and numbers > MAX_LISTED:
        raise InvalidRequest(
            "encoding",
            f"must be base64: the answer has {numbers} numbers, lists have {MAX_LISTED} at most",
        )


def _mask_inputs(
    given: Mapping[str, Any], dtype: str, owner: bool, weighted: bool, limits: Limits
) -> MaskInputs:
    """The inputs in the members of an object; those of weights are checked in any case."""
    for name in _NEEDED:
        if name not in given:
            raise InvalidRequest(name, "is missing")
    # First, since each entry takes its time.
    counts = [_length(given.get(name)) for name in ("boxes", "ignore", "image_size")]
    limits.check_lengths(max(counts[:2]), counts[2], _length(given["feature_map"]))
    maps, single = feature_maps(given["feature_map"])
    if not maps:
        raise InvalidRequest("feature_map", "is missing")
    spec = _spec(MaskSpec, "mask_spec", given.get("mask_spec"), maps)
    boxes = _boxes(given["boxes"], "boxes")
    images = boxes.num_images
    check_options(images, maps, single, spec, dtype, owner)
    sizes = image_sizes(given["image_size"], images)
    inputs = MaskInputs(boxes, sizes, maps, single, spec, dtype, owner)
    weight_spec = given.get("weight_spec")
    if weight_spec is not None:
        members = check_names(weight_spec, SPEC_FIELDS[WeightSpec], "weight_spec.")
        weight_spec = WeightSpec(**members)
    region, weights = given.get("valid_region"), given.get("box_weights")
    if isinstance(region, Mapping):
        region, _ = array_of(region, "valid_region", _FLOATS)
    if isinstance(weights, Mapping) or (
        isinstance(weights, list) and images and not any(isinstance(w, list) for w in weights)
    ):
        weights, _ = array_of(weights, "box_weights", _FLOATS)
    ignore = given.get("ignore")
    if ignore is not None:
        ignore = _boxes(ignore, "ignore")
    return inputs.with_weights(weighted, weight_spec, region, ignore, weights)


def _boxes(value: Any, name: str) -> BoxBatch:
    """Boxes as lists by image, or as one array with counts."""
    try:
        if not isinstance(value, Mapping):
            return BoxBatch.wrap(value)
        members = check_names(value, ("data", "dtype", "shape", "counts"), "boxes.")
        counts = members.pop("counts", None)
        if not isinstance(counts, list) or not all(
            type(count) is int and 0 <= count < 1 << 32 for count in counts
        ):
            raise InvalidRequest("boxes.counts", "must be a list of whole numbers of at least 0")
        xyxy, _ = array_of(members, "boxes", _FLOATS)
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise InvalidRequest("boxes.shape", f"must be [M, 4], got {list(xyxy.shape)}")
        return mask_boxes(xyxy.tobytes(), counts)
    except InvalidRequest as error:
        raise InvalidRequest(name + error.field.removeprefix("boxes"), error.reason) from None


def _spec(kind: type[S], field: str, value: Any, maps: Sequence[FeatureMap] = ()) -> S:
    """A spec from a preset's name, or an object of fields that may begin from one."""
    options = value if isinstance(value, Mapping) else {"preset": value}
    options = check_names(options, ("preset", *SPEC_FIELDS[kind]), f"{field}.")
    preset = options.pop("preset", PRESETS[0])
    if preset not in PRESETS:
        reason = f"must be one of {', '.join(PRESETS)}, got {shown(preset)}"
        raise InvalidRequest(f"{field}.preset" if isinstance(value, Mapping) else field, reason)
    ranges = options.get("level_ranges")
    if isinstance(ranges, list):  # where an upper bound of null is infinite
        check_ranges(len(ranges), maps)
        options["level_ranges"] = [
            [pair[0], math.inf] if isinstance(pair, list) and pair[1:] == [None] else pair
            for pair in ranges
        ]
    made: S = getattr(kind, preset)()
    return made.replace(**options) if options else made


class _MaskAnswer:
    """A `Layout` of JSON."""

    def __init__(self, base: Layout, dtype: str, encoding: Encoding) -> None:
        self._base, self._dtype, self._encoding = base, dtype, encoding

    def arrays(self) -> Masks:
        """See `Layout`."""
        return self._base.arrays()

    def message(
        self, masks: Sequence[Array], owners: Sequence[Array], weights: Sequence[Array]
    ) -> bytes:
        """See `Layout`."""
        found = (("masks", masks, self._dtype), ("owners", owners, "int32"))
        parts: list[bytes] = []
        for name, arrays, dtype in (*found, ("weights", weights, "float32")):
            if arrays:
                parts.append(b'%b"%b":[' % (b"," if parts else b"{", name.encode()))
                for i, array in enumerate(arrays):
                    parts += (b"," * (i > 0), *array_json(array, dtype, self._encoding))
                parts.append(b"]")
        return b"".join((*parts, b"}"))


class _LossAnswer:
    """Writes a loss as JSON."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def __call__(self, inputs: LossInputs, result: HostLoss) -> bytes:
        numbers = {"sum": float(result.total), "normalizer": float(result.normalizer)}
        loss = result.loss
        encoding: Encoding = self._encoding if loss.ndim else "list"
        parts = [b'{"loss":', *array_json(loss, loss.dtype.name, encoding), b","]
        parts.append(to_json(numbers, inf_nan_mode="null")[1:-1])
        if result.grad is not None:
            grad = array_json(result.grad, inputs.logits_dtype, self._encoding)
            parts += (b',"grad":', *grad)
        return b"".join((*parts, b"}"))
