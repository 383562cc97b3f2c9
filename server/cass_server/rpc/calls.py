"""The record of a call, and the cancellation of calls whose peers stall."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from cass_server.rpc.requests import Size

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

# How often stalled peers are looked for.
_LOOK_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Call:
    """The record of one request, from its arrival until its answer is on its way.

    Attributes:
        method: name of the RPC.
        metadata: of the call.
        started: when it came, on `time.perf_counter`'s clock.
        begun: when it was read and in its turn, likewise.
        received: bytes of its message.
        sent: bytes of its answer.
        code: name of the gRPC status that it ended with.
        compute: seconds of computing.
        encode: seconds of laying out the answer.
        size: images, boxes and patches; None if nothing was computed.
        held: bytes that are counted as in flight for it.
        holders: how many still need them: the thread that answers and gRPC, one of them, or none.
    """

    __slots__ = (
        "begun",
        "code",
        "compute",
        "encode",
        "held",
        "holders",
        "metadata",
        "method",
        "received",
        "sent",
        "size",
        "started",
    )

    def __init__(self, method: str, metadata: Metadata, started: float) -> None:
        self.method = method
        self.metadata = metadata
        self.started = self.begun = started
        self.received = self.sent = self.held = self.holders = 0
        self.code = "CANCELLED"  # unless it turns out otherwise
        self.compute = self.encode = 0.0
        self.size: Size | None = None

    @property
    def queue(self) -> float:
        """Seconds that it waited, for a slot and for its message, and was read."""
        return self.begun - self.started


class Deadlines:
    """Cancels calls whose peers do not send or read in time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[Callable[[], object], float] = {}
        threading.Thread(target=self._look, name="stalled peers", daemon=True).start()

    def start(self, cancel: Callable[[], object], seconds: float) -> None:
        """Calls ``cancel`` after so many seconds, unless `stop` comes first."""
        with self._lock:
            self._due[cancel] = time.monotonic() + seconds

    def stop(self, cancel: Callable[[], object]) -> bool:
        """Ends the deadline; returns whether that was in time."""
        with self._lock:
            return self._due.pop(cancel, None) is not None

    @contextmanager
    def within(self, cancel: Callable[[], object], seconds: float) -> Iterator[None]:
        """Calls ``cancel`` unless the block, which waits for a peer, ends in time."""
        self.start(cancel, seconds)
        try:
            yield
        finally:
            self.stop(cancel)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            self._end_stalled(time.monotonic())

    def _end_stalled(self, now: float) -> None:
        with self._lock:
            stalled = [cancel for cancel, due in self._due.items() if due <= now]
            for cancel in stalled:
                del self._due[cancel]  # so that `stop` comes too late from now on
        for cancel in stalled:
            _log.debug("peer stalled, call cancelled")
            cancel()
