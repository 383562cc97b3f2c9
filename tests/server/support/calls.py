"""Messages and streams that a test sends when it likes."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from cass.v1 import cass_pb2 as pb
from tests.server.support.processes import LIMIT

T = TypeVar("T")


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

    def __init__(self, stub: Any, *requests: pb.GenerateMaskRequest) -> None:
        super().__init__()
        self.answers = stub.StreamMasks(iter(self), timeout=LIMIT)
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
