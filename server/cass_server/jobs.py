"""What a request asks for, read from its bytes, and its answer, computed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from cass import wire
from cass.dtypes import element_type
from cass.frames import LossFrame, MaskFrame, loss_frame, mask_frame
from cass.lift import Bulky, Views, lift
from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.loss_inputs import LossInputs
from cass_core.masks import MaskInputs
from cass_server.effort import loss_effort, mask_effort
from cass_server.engine import Engine
from cass_server.limits import Limits

M = TypeVar("M", bound=Message)


class MaskJob(NamedTuple):
    """Masks to make.

    Attributes:
        inputs: what is asked for.
        patches: of all masks together.
        entry: whether the answer is the entry of a stream.
    """

    inputs: MaskInputs
    patches: int
    entry: bool

    def answer_bytes(self) -> int:
        """About the size of the answer, before anything of it is allocated."""
        size = element_type(self.inputs.dtype).itemsize + 4 * self.inputs.return_owner
        return size * self.patches

    def effort(self) -> int:
        """About the nanoseconds of one core that it takes."""
        return mask_effort(self.inputs)

    def lay_out(self) -> MaskFrame:
        """The answer to fill."""
        return mask_frame(self.inputs, entry=self.entry)

    def fill(self, frame: MaskFrame, engine: Engine) -> bytes:
        """Compute the answer; the message to send."""
        engine.masks(self.inputs, frame.masks, frame.owners)
        return frame.message

    def work(self) -> tuple[int, int, int]:
        """Images, boxes and patches of the request."""
        boxes = self.inputs.boxes
        return boxes.num_images, boxes.num_boxes, self.patches


class LossJob(NamedTuple):
    """A loss to compute; as `MaskJob`."""

    inputs: LossInputs

    def answer_bytes(self) -> int:
        """About the size of the answer, before anything of it is allocated."""
        arrays = self.inputs.return_grad + (self.inputs.spec.reduction == "none")
        return self.inputs.logits.nbytes * arrays

    def effort(self) -> int:
        """About the nanoseconds of one core that it takes."""
        return loss_effort(self.inputs)

    def lay_out(self) -> LossFrame:
        """The answer to fill."""
        return loss_frame(self.inputs)

    def fill(self, frame: LossFrame, engine: Engine) -> bytes:
        """Compute the answer; the message to send.

        Raises:
            InvalidRequest: the target leaves [0, 1].
        """
        return frame.finish(engine.losses(self.inputs, frame.loss, frame.grad))

    def work(self) -> tuple[int, int, int]:
        """Images, boxes and patches of the request."""
        mask, logits = self.inputs.mask, self.inputs.logits
        return logits.shape[0], mask.boxes.num_boxes if mask is not None else 0, logits.size


Job = MaskJob | LossJob
Reader = Callable[[bytes, Limits], Job]


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
    return MaskJob(inputs, limits.check_patches(inputs), entry)


def read_loss(data: bytes, limits: Limits) -> LossJob:
    """The job of a serialized `ComputeLossRequest`.

    Raises:
        InvalidRequest: it cannot be used, or is beyond the limits.
    """
    request, views = _parse(data, pb.ComputeLossRequest, limits)
    # The logits bound the work: they are in the message, and a mask must have their shape.
    limits.check_message(request.mask, len(wire.boxes_data(request.mask, views, "mask.boxes")))
    inputs = wire.loss_inputs(request, views)
    return LossJob(inputs)


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
