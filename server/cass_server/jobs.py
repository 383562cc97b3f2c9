"""What a request asks for, read from its bytes, and its answer, computed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from cass import wire
from cass.frames import LossFrame, MaskFrame, MaskLayout, loss_frame
from cass.lift import Bulky, Views, lift
from cass.split import split
from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.loss_inputs import LossInputs
from cass_core.masks import MaskInputs
from cass_server.asks import MaskAsk
from cass_server.effort import loss_effort
from cass_server.engine import Engine
from cass_server.limits import Limits

M = TypeVar("M", bound=Message)

# The longest options that are remembered, and how many.
_KEPT_BYTES, _KEPT_ASKS = 512, 256


class MaskJob(NamedTuple):
    """Masks to make.

    Attributes:
        inputs: what is asked for.
        layout: of the answer.
        answer_bytes: about the size of the answer, before anything of it is allocated.
        effort: about the nanoseconds of one core that it takes.
        work: images, boxes and patches of the request.
    """

    inputs: MaskInputs
    layout: MaskLayout
    answer_bytes: int
    effort: int
    work: tuple[int, int, int]

    @classmethod
    def of(cls, inputs: MaskInputs, ask: MaskAsk) -> MaskJob:
        """The job of checked inputs that ask for that."""
        boxes = inputs.boxes
        work = boxes.num_images, boxes.num_boxes, ask.patches
        return cls(inputs, ask.layout, ask.answer_bytes, ask.effort.of(inputs), work)

    def lay_out(self) -> MaskFrame:
        """The answer to fill."""
        return self.layout.frame()

    def fill(self, frame: MaskFrame, engine: Engine) -> bytes:
        """Compute the answer; the message to send."""
        engine.masks(self.inputs, frame.masks, frame.owners)
        return frame.message


class LossJob(NamedTuple):
    """A loss to compute; as `MaskJob`."""

    inputs: LossInputs
    answer_bytes: int
    effort: int
    work: tuple[int, int, int]

    @classmethod
    def of(cls, inputs: LossInputs) -> LossJob:
        """The job of checked inputs."""
        mask, logits = inputs.mask, inputs.logits
        arrays = inputs.return_grad + (inputs.spec.reduction == "none")
        boxes = 0 if mask is None else mask.boxes.num_boxes
        work = logits.shape[0], boxes, logits.size
        return cls(inputs, logits.nbytes * arrays, loss_effort(inputs), work)

    def lay_out(self) -> LossFrame:
        """The answer to fill."""
        return loss_frame(self.inputs)

    def fill(self, frame: LossFrame, engine: Engine) -> bytes:
        """Compute the answer; the message to send.

        Raises:
            InvalidRequest: the target leaves [0, 1].
        """
        return frame.finish(engine.losses(self.inputs, frame.loss, frame.grad))


Job = MaskJob | LossJob
Reader = Callable[[bytes], Job]


def read_mask(data: bytes, limits: Limits) -> MaskJob:
    """The job of a serialized `GenerateMaskRequest`.

    Raises:
        InvalidRequest: it cannot be used, or is beyond the limits.
    """
    request, views = _parse(data, pb.GenerateMaskRequest, limits)
    return _mask_job(request, views, "boxes", limits, entry=False)


def read_stream_mask(data: bytes, limits: Limits) -> MaskJob:
    """The job of a serialized `StreamMasksRequest`, answered by an entry of a stream.

    Raises:
        InvalidRequest: it cannot be used, or is beyond the limits.
    """
    message, views = _parse(data, pb.StreamMasksRequest, limits)
    return _mask_job(message.request, views, "request.boxes", limits, entry=True)


def _mask_job(
    request: pb.GenerateMaskRequest, views: Views, at: str, limits: Limits, *, entry: bool
) -> MaskJob:
    limits.check_message(request, len(wire.boxes_data(request, views, at)))
    inputs = wire.mask_inputs(request, views, at)
    return MaskJob.of(inputs, MaskAsk.of(inputs, limits, entry=entry))


class MaskReader:
    """`read_mask`, but quick where a request asks for what was asked for before.

    Such a request, in the form that clients send (see `cass.split`), is known to be good but for
    its boxes.

    Args:
        limits: the largest request.
        entry: whether to do as `read_stream_mask`.
    """

    def __init__(self, limits: Limits, *, entry: bool = False) -> None:
        self._limits = limits
        self._entry = entry
        self._read = read_stream_mask if entry else read_mask
        self._asks: dict[tuple[bytes, int], MaskAsk] = {}

    def __call__(self, data: bytes) -> MaskJob:
        """The job of a serialized request.

        Raises:
            InvalidRequest: it cannot be used, or is beyond the limits.
        """
        parts = split(data, entry=self._entry)
        if parts is None:
            return self._read(data, self._limits)
        xyxy, counts, rest = parts
        ask = self._asks.get((rest, len(counts)))
        if ask is None:
            job = self._read(data, self._limits)
            self._keep(rest, job.inputs)
            return job
        self._limits.check_boxes(len(xyxy))
        return MaskJob.of(ask.inputs(wire.mask_boxes(xyxy, counts)), ask)

    def _keep(self, rest: bytes, inputs: MaskInputs) -> None:
        # Nobody's long list is kept; and protobuf would add further boxes to the first ones.
        if len(rest) > _KEPT_BYTES or pb.GenerateMaskRequest.FromString(rest).HasField("boxes"):
            return
        if len(self._asks) >= _KEPT_ASKS:
            self._asks.clear()
        ask = MaskAsk.of(inputs, self._limits, entry=self._entry)
        self._asks[rest, inputs.boxes.num_images] = ask


def read_loss(data: bytes, limits: Limits) -> LossJob:
    """The job of a serialized `ComputeLossRequest`.

    Raises:
        InvalidRequest: it cannot be used, or is beyond the limits.
    """
    request, views = _parse(data, pb.ComputeLossRequest, limits)
    # The logits bound the work: they are in the message, and a mask must have their shape.
    limits.check_message(request.mask, len(wire.boxes_data(request.mask, views, "mask.boxes")))
    return LossJob.of(wire.loss_inputs(request, views))


def read_info(data: bytes, limits: Limits) -> None:
    """Check a serialized `GetServerInfoRequest`, which asks for nothing in particular.

    Raises:
        InvalidRequest: it is none.
    """
    _parse(data, pb.GetServerInfoRequest, limits)


def _parse(data: bytes, kind: type[M], limits: Limits) -> tuple[M, Views]:
    most = limits.rest_bytes
    try:
        return lift(data, kind, most)
    except Bulky as error:
        raise InvalidRequest(
            "request",
            f"has {error.size} bytes beside its boxes and tensors, the server's limit is {most}",
        ) from None
    except DecodeError:
        raise InvalidRequest("request", f"is not a {kind.DESCRIPTOR.full_name}") from None
