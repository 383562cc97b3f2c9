"""Load from plain gRPC clients, whose every answer is recorded and checked."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.processes import LIMIT
from tests.server.support.requests import Writer

SIDE = 16
"""Cells along each side of the feature map."""

_STRIDE = 4


def numbered_request(number: int, images: int = 1, side: int = SIDE) -> pb.GenerateMaskRequest:
    """A request whose answer shows its number: one box per image, at a place of its own.

    Without context a mask is 1 in the cells that the box covers, and 0 elsewhere.
    """
    corners = [_corner(number + image) for image in range(images)]
    boxes = [_STRIDE * edge for x, y in corners for edge in (x, y, x + SIDE // 2, y + SIDE // 2)]
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=struct.pack(f"<{len(boxes)}f", *boxes), counts=[1] * images),
        image_sizes=pb.ImageSizes(heights=[_STRIDE * side], widths=[_STRIDE * side]),
        feature_maps=[pb.FeatureMap(height=side, width=side)],
        mask_spec=pb.MaskSpec(patch_size=1, expansion_ratio=0),
        dtype=pb.DATA_TYPE_UINT8,
    )


def is_answer(
    response: pb.GenerateMaskResponse, number: int, images: int = 1, side: int = SIDE
) -> bool:
    """Whether it is the answer to `numbered_request`."""
    expected = np.zeros((images, side, side), np.uint8)
    for image in range(images):
        x, y = _corner(number + image)
        expected[image, y : y + SIDE // 2, x : x + SIDE // 2] = 255
    (mask,) = response.masks
    return list(mask.shape) == [images, side, side] and mask.data == expected.tobytes()


def _corner(number: int) -> tuple[int, int]:
    places = SIDE // 2 + 1
    return number % places, number // places % places


def connect(
    address: str, credentials: grpc.ChannelCredentials | None = None, receive_bytes: int = -1
) -> grpc.Channel:
    """A channel with a connection of its own, which is tried again at once when it is lost.

    Answers may have at most ``receive_bytes``; -1 for any number.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_receive_message_length", receive_bytes),
    ]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


@contextlib.contextmanager
def service_of(address: str) -> Iterator[Any]:
    """A stub of the service with a connection of its own."""
    with connect(address) as channel:
        yield cass_pb2_grpc.CassServiceStub(channel)


@dataclass
class Record:
    """What one caller has seen.

    Attributes:
        right: answers with the numbers that were asked for.
        wrong: numbers of the requests with any other answer.
        errors: the failures, in order; a failed request counts anew each time it is repeated.
    """

    right: int = 0
    wrong: list[int] = field(default_factory=list)
    errors: list[grpc.RpcError] = field(default_factory=list)

    @property
    def codes(self) -> list[str]:
        """Names of the statuses that requests failed with, in order."""
        return [error.code().name for error in self.errors]


class Caller:
    """Requests one mask after another, in a thread of its own, until it is stopped.

    Args:
        channel: a connection of its own; closed by `stop`.
        first: number of the first request.
        retry: repeat a request that failed with UNAVAILABLE until it is answered; else the first
            failure is the end.
        metadata: of every call.
    """

    def __init__(
        self, channel: grpc.Channel, first: int = 0, retry: bool = False, metadata: Any = None
    ) -> None:
        self.record = Record()
        self._metadata = metadata
        self._channel = channel
        self._first = first
        self._retry = retry
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        ask = cass_pb2_grpc.CassServiceStub(self._channel).GenerateMask
        number = self._first
        while not self._stopped.is_set():
            try:
                answer = ask(
                    numbered_request(number),
                    timeout=LIMIT,
                    metadata=self._metadata,
                    wait_for_ready=self._retry,
                )
            except grpc.RpcError as error:
                self.record.errors.append(error)
                if self._retry and error.code() is grpc.StatusCode.UNAVAILABLE:
                    continue
                return
            if is_answer(answer, number):
                self.record.right += 1
            else:
                self.record.wrong.append(number)
            number += 1

    def join(self) -> Record:
        """Wait for the first failure; what was seen."""
        self._thread.join(timeout=LIMIT)
        assert not self._thread.is_alive()
        return self.record

    def stop(self) -> Record:
        """Wait for the answer to the last request; what was seen."""
        self._stopped.set()
        self._thread.join(timeout=2 * LIMIT)
        assert not self._thread.is_alive()
        self._channel.close()
        return self.record


class Stream(Writer[pb.StreamMasksRequest]):
    """A StreamMasks call to which requests are added one by one."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__()
        self._answers = cass_pb2_grpc.CassServiceStub(channel).StreamMasks(iter(self))

    def ask(self, number: int) -> None:
        """Send a numbered request."""
        self.write(pb.StreamMasksRequest(request=numbered_request(number)))

    def answers(self, number: int, images: int = 1, side: int = SIDE) -> bool:
        """Whether the next answer is the right one to that request."""
        return is_answer(next(self._answers).masks, number, images, side)

    def is_right(self, number: int) -> bool:
        """Whether that request is answered with the right numbers."""
        self.ask(number)
        return self.answers(number)

    def end(self) -> tuple[grpc.StatusCode, str]:
        """The status that it ends with, instead of an answer."""
        with pytest.raises(grpc.RpcError) as caught:
            next(self._answers)
        self.close()
        return caught.value.code(), caught.value.details()


@contextlib.contextmanager
def load(
    address: str,
    callers: int = 6,
    credentials: grpc.ChannelCredentials | None = None,
    **options: Any,
) -> Iterator[list[Caller]]:
    """So many callers, each with a connection of its own; stopped at the end."""
    running: list[Caller] = []
    with contextlib.ExitStack() as stack:
        for index in range(callers):
            caller = Caller(connect(address, credentials), first=1000 * index, **options)
            stack.callback(caller.stop)
            running.append(caller)
        yield running


def more_answers(callers: list[Caller], answers: int = 20) -> Callable[[], bool]:
    """Whether each of them has had so many more right answers than now."""
    goals = [caller.record.right + answers for caller in callers]
    return lambda: all(
        caller.record.right >= goal for caller, goal in zip(callers, goals, strict=True)
    )
