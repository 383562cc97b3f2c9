"""Requests read from their bytes, and answers as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from cass import convert
from cass.codec.decode import Views
from cass.codec.encode import MaskLayout, loss_response
from cass.dtypes import element_type
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array, read_only
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting
from cass_core.coverage import without_patch
from cass_core.cpu.small import SmallFill
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_core.specs import MaskSpec
from cass_core.work import most_work
from cass_server.config.limits import Limits
from cass_server.observability.call import CallContext, Size
from cass_server.rpc.parsing import parse

Masks: TypeAlias = tuple[Sequence[Array], Sequence[Array], Sequence[Array]]
"""Masks, owner maps and weights (none unless requested), one of each per feature map."""
FillMasks: TypeAlias = Callable[[MaskInputs, Masks, CallContext], None]

# The longest options that are remembered, and how many.
_KEPT_BYTES, _KEPT_PLANS = 512, 256


class Layout(Protocol):
    """How an answer lies in memory; see `MaskLayout`."""

    def arrays(self) -> Masks:
        """Arrays of unset values for the masks, the owner maps and the weights."""

    def message(
        self, masks: Sequence[Array], owners: Sequence[Array], weights: Sequence[Array]
    ) -> bytes:
        """The serialized answer with them."""


class MaskPlan(NamedTuple):
    """What follows from all of a mask request but its boxes."""

    options: tuple[Any, ...]
    """The fields of its `MaskInputs` after the boxes."""
    small: SmallFill | None
    """Fills the masks if the boxes are few; None if the engine has no such function."""
    lacking: Callable[[Array, Array], int] | None
    """Counts the boxes without a patch; None if each within its image has one."""
    patches: int
    answer_bytes: int
    layout: Layout
    is_weighted: bool
    """Whether weights are requested; what they are made from is no part of the plan."""
    light_boxes: int
    """How many boxes are no heavy work, whatever they reach."""


class MaskRequest(NamedTuple):
    """Masks to make: checked, read-only boxes as `BoxBatch` has them, and the rest."""

    xyxy: Array
    offsets: Array
    plan: MaskPlan
    weighting: Weighting | None = None
    is_heavy: bool = False

    @property
    def inputs(self) -> MaskInputs:
        """What an engine takes."""
        boxes = BoxBatch.checked(self.xyxy, self.offsets)
        inputs = MaskInputs(boxes, *self.plan.options)
        return inputs if self.weighting is None else replace(inputs, weighting=self.weighting)

    @property
    def answer_bytes(self) -> int:
        """About what answering takes, before anything of it is allocated."""
        plan, weighting = self.plan, self.weighting
        unsent = weighting is not None and weighting.needs_owner and not plan.options[-1]
        return plan.answer_bytes + 4 * plan.patches * unsent  # owners

    @property
    def size(self) -> Size:
        """Images, boxes and patches."""
        return len(self.offsets) - 1, len(self.xyxy), self.plan.patches

    @property
    def without_patch(self) -> int:
        """Boxes that hold no patch centre of any feature map."""
        lacking = self.plan.lacking
        return 0 if lacking is None else lacking(self.xyxy, self.offsets)

    def compute(self, fill: FillMasks, context: CallContext) -> Masks:
        """The arrays of the answer; small ones, which need no checkpoints, without ``fill``."""
        out = self.plan.layout.arrays()
        small = self.plan.small
        if small is not None and len(self.xyxy) <= small.most_boxes:
            small.fill(self.xyxy, self.offsets, out[0])
        else:
            fill(self.inputs, out, context)
        return out

    def encode(self, result: Masks) -> bytes:
        """The serialized answer."""
        return self.plan.layout.message(*result)


class LossRequest(NamedTuple):
    """A loss to compute; as `MaskRequest`."""

    inputs: LossInputs
    is_heavy: bool
    write: Callable[[LossInputs, HostLoss], bytes] = loss_response
    """Writes the answer."""

    @property
    def answer_bytes(self) -> int:
        """See `MaskRequest`; with the mask that the target is, its weights and its owners."""
        inputs, mask = self.inputs, self.inputs.mask
        answer = inputs.logits.nbytes * (inputs.return_grad + (inputs.spec.reduction == "none"))
        if mask is None:
            return answer
        made = 1 if mask.weighting is None else 2 + mask.weighting.needs_owner
        return answer + 4 * made * inputs.logits.size

    @property
    def size(self) -> Size:
        """See `MaskRequest`."""
        mask, logits = self.inputs.mask, self.inputs.logits
        return logits.shape[0], 0 if mask is None else mask.boxes.num_boxes, logits.size

    @property
    def without_patch(self) -> int:
        """See `MaskRequest`."""
        mask = self.inputs.mask
        if mask is None or _has_all(mask.spec):
            return 0
        return _lacking(mask, np.asarray(mask.boxes.xyxy), mask.boxes.offsets)

    def encode(self, result: HostLoss) -> bytes:
        """The serialized answer."""
        return self.write(self.inputs, result)


Request: TypeAlias = MaskRequest | LossRequest
Reader: TypeAlias = Callable[[bytes], Request]
"""Reads a serialized request; raises `InvalidRequest`."""


class MaskReader:
    """Reads serialized requests for masks.

    What clients send beside the boxes is the same from request to request. It is worked out
    once, in a `MaskPlan`, and looked up by its bytes. On the CPU the boxes are then read in one
    compiled pass, without protobuf: half of the time that reading takes.

    Messages are of `GenerateMask`, or if ``streamed`` of `StreamMasks`, whose answers are entries
    of its stream.
    """

    def __init__(
        self,
        limits: Limits,
        small_fill: Callable[[MaskInputs], SmallFill | None] | None = None,
        *,
        streamed: bool = False,
    ) -> None:
        self._limits = limits
        self._small_fill = small_fill
        # `boxes_of_message`, once there is a plan: to load it takes a second.
        self._read: Callable[..., tuple[int, int, int]] | None = None
        self._streamed = streamed
        self._plans: dict[tuple[bytes, int], MaskPlan] = {}

    def __call__(self, data: bytes) -> MaskRequest:
        """The request in a message; raises `InvalidRequest` if it cannot be used."""
        return check_work(self._known(data) or self._parsed(data), self._limits)

    def _parsed(self, data: bytes) -> MaskRequest:
        if self._streamed:
            message, views = parse(data, pb.StreamMasksRequest, self._limits)
            request, at = message.request, "request.boxes"
        else:
            request, views = parse(data, pb.GenerateMaskRequest, self._limits)
            at = "boxes"
        xyxy = convert.boxes_data(request, views, at)
        counts = list(request.boxes.counts)
        ignored = convert.ignored_data(request, views, at)
        self._limits.check_boxes(len(xyxy))
        self._limits.check_ignored(request, len(xyxy) + len(ignored))
        # What differs from request to request is no part of the plan.
        own = convert.take_weighting(request)
        request.ClearField("boxes")
        key = request.SerializeToString(), len(counts)
        plan = self._plans.get(key)
        if plan is None:
            self._limits.check_message(request, len(counts))
        boxes = convert.mask_boxes(xyxy, counts)
        if plan is None:
            plan = self._plan(request, boxes)
            self._keep(key, plan)
        weighting = None
        if own is not None:
            weighting = convert.weighting(own, boxes, plan.options[3], views, at)
        checked = read_only(np.asarray(boxes.xyxy))
        return MaskRequest(checked, boxes.offsets, plan, weighting if plan.is_weighted else None)

    def _known(self, data: bytes) -> MaskRequest | None:
        """A valid request whose options were read before, as clients lay it out; or None."""
        if self._read is None:
            return None
        xyxy = np.empty((min(len(data) >> 4, self._limits.boxes), 4), np.float32)
        offsets = np.empty(min(len(data), self._limits.images) + 1, np.int64)
        message = np.frombuffer(data, np.uint8)
        boxes, images, rest = self._read(message, self._streamed, xyxy, offsets)
        plan = self._plans.get((data[rest:], images)) if rest else None
        if plan is None or plan.is_weighted:
            return None
        xyxy.flags.writeable = offsets.flags.writeable = False
        return MaskRequest(xyxy[:boxes], offsets[: images + 1], plan)

    def _plan(self, request: pb.GenerateMaskRequest, boxes: BoxBatch) -> MaskPlan:
        options = convert.mask_options(request, boxes.num_images)
        inputs = MaskInputs(boxes, *options)
        patches = self._limits.check_patches(inputs)
        dtype, owner = inputs.dtype, inputs.return_owner
        weighted = request.return_weights
        layout = MaskLayout(inputs.shapes(), dtype, owner, weighted, entry=self._streamed)
        answer_bytes = (element_type(dtype).itemsize + 4 * owner + 4 * weighted) * patches
        small = None
        lacking: Callable[[Array, Array], int] | None
        lacking = None if _has_all(inputs.spec) else partial(_lacking, inputs)
        if self._small_fill is not None:
            from cass_core.cpu.boxes import boxes_of_message
            from cass_core.cpu.coverage import counter

            small = None if weighted else self._small_fill(inputs)
            self._read = boxes_of_message
            lacking = None if lacking is None else counter(inputs)
        light_boxes = self._limits.light_work // most_work(inputs)
        numbers = patches, answer_bytes
        return MaskPlan(options, small, lacking, *numbers, layout, weighted, light_boxes)

    def _keep(self, key: tuple[bytes, int], plan: MaskPlan) -> None:
        if len(key[0]) <= _KEPT_BYTES:  # long lists of sizes are not kept
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.clear()
            self._plans[key] = plan


def check_work(request: MaskRequest, limits: Limits) -> MaskRequest:
    """The request with the truth about its work; raises `InvalidRequest` if that is too much."""
    if len(request.xyxy) > request.plan.light_boxes or request.weighting is not None:
        return request._replace(is_heavy=limits.check_work(request.inputs))
    return request


def read_loss(data: bytes, limits: Limits) -> LossRequest:
    """The request in a `ComputeLossRequest`; raises `InvalidRequest` if it cannot be used."""
    return LossRequest(*check_loss(*parse(data, pb.ComputeLossRequest, limits), limits))


def check_loss(
    request: pb.ComputeLossRequest, views: Views, limits: Limits
) -> tuple[LossInputs, bool]:
    """The inputs of a message of which `lift` has taken the views, and whether they are heavy.

    Raises as `read_loss`.
    """
    box_bytes = len(convert.boxes_data(request.mask, views, "mask.boxes"))
    limits.check_boxes(box_bytes)
    ignored = convert.ignored_data(request.mask, views, "mask.boxes")
    limits.check_ignored(request.mask, box_bytes + len(ignored))
    limits.check_message(request.mask, len(request.mask.boxes.counts))
    inputs = convert.loss_inputs(request, views)
    if inputs.mask is None:
        return inputs, False
    limits.check_patches(inputs.mask)
    return inputs, limits.check_work(inputs.mask)


def _has_all(spec: MaskSpec) -> bool:
    """Whether each box within its image has a patch, so that none need be looked for."""
    return spec.patch_size == 1 and spec.min_size >= 1


def _lacking(inputs: MaskInputs, xyxy: Array, offsets: Array) -> int:
    """How many of the boxes hold no patch centre of any feature map of the inputs."""
    inputs = replace(inputs, boxes=BoxBatch.checked(xyxy, offsets))
    return int(np.logical_and.reduce(without_patch(inputs)).sum())
