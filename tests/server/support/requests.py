"""Requests written out as messages, and calls whose messages a test sends when it likes."""

from __future__ import annotations

import queue
import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from cass.v1 import cass_pb2 as pb
from tests.server.support.processes import LIMIT

T = TypeVar("T")


def mask_request(
    images: int = 1, side: int = 4, maps: int = 1, boxes: int = 1
) -> pb.GenerateMaskRequest:
    """``images`` images of 32 x 32 with ``boxes`` boxes each, on ``maps`` square maps."""
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=struct.pack("<4f", 8, 8, 24, 24) * images * boxes, counts=[boxes] * images
        ),
        image_sizes=pb.ImageSizes(heights=[32], widths=[32]),
        feature_maps=[pb.FeatureMap(height=side, width=side)] * maps,
        mask_spec=pb.MaskSpec(patch_size=1),
    )


def loss_request(
    images: int = 1, side: int = 4, maps: int = 1, boxes: int = 1
) -> pb.ComputeLossRequest:
    """Logits of zero against the masks of `mask_request`."""
    return pb.ComputeLossRequest(
        logits=pb.Tensor(
            dtype=pb.DATA_TYPE_FLOAT32,
            shape=[images, side, side],
            data=bytes(4 * images * side * side),
        ),
        mask=mask_request(images, side, maps, boxes),
        return_grad=True,
    )


class Writer(Generic[T]):
    """The messages of a call."""

    def __init__(self) -> None:
        self._messages: queue.Queue[T | None] = queue.Queue()

    def write(self, message: T) -> None:
        """Send one more."""
        self._messages.put(message)

    def close(self) -> None:
        """Send no more."""
        self._messages.put(None)

    def __iter__(self) -> Iterator[T]:
        return iter(self._messages.get, None)  # type: ignore[arg-type]


class Stream(Writer[pb.StreamMasksRequest]):
    """A StreamMasks call.

    Attributes:
        answers: of the server, as they come.
    """

    def __init__(self, stub: Any, *requests: pb.GenerateMaskRequest, metadata: Any = None) -> None:
        super().__init__()
        self.answers = stub.StreamMasks(iter(self), timeout=LIMIT, metadata=metadata)
        # gRPC's thread that sends the requests ends with the call.
        self.answers.add_done_callback(lambda _: self.close())
        for request in requests:
            self.ask(request)

    def ask(self, request: pb.GenerateMaskRequest) -> None:
        """Send a request."""
        self.write(pb.StreamMasksRequest(request=request))

    def images(self) -> int:
        """Number of images in the next answer."""
        return int(next(self.answers).masks.masks[0].shape[0])
