"""What follows from all of a `ModelInferRequest` but its tensors' elements, for each model."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, Protocol, TypeAlias

import numpy as np

from cass.codec.decode import Views
from cass.codec.encode import boxes_field, mask_options
from cass.convert import mask_boxes
from cass.dtypes import NUMBERS
from cass.inference import grpc_predict_v2_pb2 as pb
from cass.specs import loss_spec_message
from cass.v1 import cass_pb2 as v1
from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES, Array, read_only
from cass_core.errors import InvalidRequest
from cass_core.grid import feature_maps, image_sizes
from cass_core.specs import MaskSpec, check_flag
from cass_server.config.limits import Limits
from cass_server.open_inference.answers import Head, MaskAnswer, loss_answer
from cass_server.open_inference.models import LOSS, MASK, MASK_INPUTS
from cass_server.open_inference.parameters import loss_spec, mask_spec, num_boxes, parameters
from cass_server.open_inference.tensors import (
    DATATYPES,
    INTEGERS,
    NAMES,
    Input,
    check_raw,
    read_inputs,
)
from cass_server.rpc.requests import (
    LossRequest,
    MaskPlan,
    MaskReader,
    MaskRequest,
    Request,
    check_loss,
    check_work,
)

# The longest sizes and maps of which a head remembers what follows, and how many.
_KEPT_BYTES, _KEPT_PLANS = 512, 8

_BOX_INPUTS: Final = {
    "BOXES": ("FP32",),
    **dict.fromkeys(MASK_INPUTS[1:], tuple(INTEGERS)),
}
_LOSS_INPUTS: Final = {
    "LOGITS": tuple(DATATYPES[name] for name in LOGIT_DTYPES),
    "TARGET": tuple(DATATYPES[name] for name in TARGET_DTYPES),
    "WEIGHTS": ("FP32",),
    **_BOX_INPUTS,
}
_LOSS_OUTPUTS: Final = ("LOSS", "SUM", "NORMALIZER", "GRAD")

Raw: TypeAlias = Sequence[bytes | memoryview]
"""The elements of each input."""


class Options(Protocol):
    """Those of a request, checked."""

    def read(self, raw: Raw, identity: bytes) -> Request:
        """The request with these elements of its inputs, and this id."""


class _Boxes:
    """The inputs that masks are made from, and the options beside them."""

    def __init__(
        self,
        inputs: dict[str, Input],
        limits: Limits,
        spec: MaskSpec,
        dtype: str | None,
        return_owner: bool,
    ) -> None:
        for name in MASK_INPUTS:
            if name not in inputs:
                raise InvalidRequest(name, "is missing")
        self._boxes, self._counts, self._sizes, self._maps = (inputs[name] for name in MASK_INPUTS)
        self._options = spec, dtype, return_owner
        self._images = self._counts.check_shape((None,), "[B]")
        sizes = self._sizes.check_shape((None, 2), "[1 or B, 2]")
        self.maps = self._maps.check_shape((None, 2), "[L, 2]")
        self.num_boxes = self._boxes.check_shape((None, 4), "[M, 4]")
        limits.check_boxes(self._boxes.size)
        limits.check_lengths(self._images, sizes, self.maps)

    def xyxy(self, raw: Raw) -> bytes | memoryview:
        """The bytes of the boxes."""
        return raw[self._boxes.number]

    def counts(self, raw: Raw) -> list[int]:
        """Numbers of boxes by image, which add up to all."""
        counts: list[int] = self._counts.integers(raw).tolist()
        if min(counts, default=0) < 0:
            raise InvalidRequest("boxes.counts", f"must be at least 0, got {min(counts)}")
        if sum(counts) != self.num_boxes:
            raise InvalidRequest(
                "boxes.counts", f"add up to {sum(counts)}, but there are {self.num_boxes} boxes"
            )
        return counts

    def key(self, raw: Raw) -> tuple[bytes, bytes]:
        """What decides on all but the boxes: the bytes of image sizes and feature maps."""
        return bytes(raw[self._sizes.number]), bytes(raw[self._maps.number])

    def message(self, raw: Raw, xyxy: bytes | memoryview, counts: list[int]) -> bytes:
        """The `GenerateMaskRequest`."""
        sizes = self._sizes.integers(raw).reshape(-1, 2)
        pair = tuple(sizes[0].tolist()) if len(sizes) == 1 else sizes
        maps, _ = feature_maps([*map(tuple, self._maps.integers(raw).reshape(-1, 2).tolist())])
        checked = image_sizes(pair, self._images).tobytes()
        return boxes_field(xyxy, counts) + mask_options(checked, tuple(maps), *self._options)


class MaskOptions:
    """Those of a request to ``cass_mask``."""

    def __init__(
        self, message: pb.ModelInferRequest, limits: Limits, masks: MaskReader, *, streamed: bool
    ) -> None:
        inputs = read_inputs(message, _BOX_INPUTS)
        self._inputs = tuple(inputs.values())
        values = parameters(message.parameters, ("mask_spec", "dtype", "return_owner"))
        outputs = _outputs(message)
        spec, dtype = mask_spec(values), values.get("dtype", "float32")
        if dtype not in MASK_DTYPES:
            choices = ", ".join(MASK_DTYPES)
            raise InvalidRequest("dtype", f"must be one of {choices}, got {dtype!r}")
        owner = check_flag(values.get("return_owner", False), "return_owner")
        if outputs:
            owner = any(name.startswith("OWNER") for name in outputs)
        self._boxes = _Boxes(inputs, limits, spec, dtype, owner)
        for name in outputs:
            kind, _, level = name.partition("_")
            if not (kind in ("MASK", "OWNER") and re.fullmatch("0|[1-9][0-9]{0,8}", level)) or (
                int(level) >= self._boxes.maps
            ):
                raise InvalidRequest(
                    "outputs",
                    f"{name!r} is no output: there are MASK_0 and OWNER_0, and so on for each of"
                    f" {self._boxes.maps} feature maps",
                )
        self._names = outputs
        self._head = Head.of(MASK, streamed=streamed)
        self._masks, self._limits = masks, limits
        self._plans: dict[tuple[bytes, bytes], tuple[MaskPlan, MaskAnswer]] = {}

    def read(self, raw: Raw, identity: bytes) -> MaskRequest:
        """See `Options`."""
        boxes, raw = self._boxes, check_raw(self._inputs, raw)
        key, xyxy, counts = boxes.key(raw), boxes.xyxy(raw), boxes.counts(raw)
        found = self._plans.get(key)
        if found is None:
            request = self._masks(boxes.message(raw, xyxy, counts))
            answer = MaskAnswer(self._head, request.plan.layout, request.inputs, self._names)
            found = request.plan._replace(layout=answer), answer
            if sum(map(len, key)) <= _KEPT_BYTES:
                if len(self._plans) >= _KEPT_PLANS:
                    self._plans.clear()
                self._plans[key] = found
        plan, answer = found
        if identity:
            plan = plan._replace(layout=answer.with_id(identity))
        return check_work(MaskRequest(*_checked(xyxy, counts), plan), self._limits)


def _checked(data: bytes | memoryview, counts: list[int]) -> tuple[Array, Array]:
    """Checked boxes and their offsets, as a `MaskRequest` has them."""
    # Where the kernels are loaded, in half of the time that `mask_boxes` takes.
    are_boxes = getattr(sys.modules.get("cass_core.cpu.boxes"), "are_boxes", None)
    if are_boxes is not None:
        xyxy = np.frombuffer(data, np.float32).reshape(-1, 4)
        if not xyxy.flags.aligned:
            xyxy = read_only(xyxy.copy())
        if are_boxes(xyxy):
            offsets = np.array([0, *accumulate(counts)], np.int64)
            offsets.flags.writeable = False
            return xyxy, offsets
    batch = mask_boxes(data, counts)  # which says what is wrong
    return read_only(np.asarray(batch.xyxy)), batch.offsets


class LossOptions:
    """Those of a request to ``cass_loss``."""

    def __init__(self, message: pb.ModelInferRequest, limits: Limits, *, streamed: bool) -> None:
        inputs = read_inputs(message, _LOSS_INPUTS)
        self._inputs = tuple(inputs.values())
        known = ("loss_spec", "mask_spec", "num_boxes", "return_grad")
        values = parameters(message.parameters, known)
        outputs = _outputs(message)
        for name in outputs:
            if name not in _LOSS_OUTPUTS:
                reason = f"{name!r} is no output: there are {', '.join(_LOSS_OUTPUTS)}"
                raise InvalidRequest("outputs", reason)
        grad = check_flag(values.get("return_grad", False), "return_grad")
        self._request = v1.ComputeLossRequest(
            loss_spec=loss_spec_message(loss_spec(values)),
            num_boxes=num_boxes(values),
            return_grad="GRAD" in outputs if outputs else grad,
        )
        if "LOGITS" not in inputs:
            raise InvalidRequest("LOGITS", "is missing")
        self._boxes = None
        if "TARGET" not in inputs and any(name in inputs for name in MASK_INPUTS):
            self._boxes = _Boxes(inputs, limits, mask_spec(values), None, False)
        elif any(name in inputs for name in MASK_INPUTS):
            raise InvalidRequest("target", "give either a target or boxes")
        elif "mask_spec" in values:
            raise InvalidRequest("mask_spec", "needs boxes: a target is given")
        self._limits = limits
        self._head, self._names = Head.of(LOSS, streamed=streamed), outputs

    def read(self, raw: Raw, identity: bytes) -> LossRequest:
        """See `Options`."""
        raw = check_raw(self._inputs, raw)
        request, views = v1.ComputeLossRequest(), Views()
        request.CopyFrom(self._request)
        for given in self._inputs:
            if given.name in ("LOGITS", "TARGET", "WEIGHTS"):
                name = given.name.lower()
                tensor = v1.Tensor(dtype=NUMBERS[NAMES[given.datatype]], shape=given.shape)
                getattr(request, name).CopyFrom(tensor)
                views[name] = [memoryview(raw[given.number])]
        boxes = self._boxes
        if boxes is not None:
            request.mask.MergeFromString(boxes.message(raw, b"", boxes.counts(raw)))
            views["mask.boxes"] = [memoryview(boxes.xyxy(raw))]
        head = self._head.with_id(identity) if identity else self._head
        checked = check_loss(request, views, self._limits)
        return LossRequest(*checked, loss_answer(head, self._names))


def _outputs(message: pb.ModelInferRequest) -> tuple[str, ...]:
    """The names of the outputs that are asked for; none for all."""
    names: dict[str, None] = {}
    for output in message.outputs:
        if output.name in names:
            raise InvalidRequest("outputs", f"{output.name!r} comes twice")
        parameters(output.parameters, (), f"{output.name}.")
        names[output.name] = None
    return tuple(names)
