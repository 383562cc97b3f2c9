"""The record of a call: what metrics, traces and logs have of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self, TypeAlias

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Size: TypeAlias = tuple[int, int, int]
"""Images, boxes and patches of a request."""


class CallContext(Protocol):
    """What a computation asks about its call, as gRPC's `ServicerContext` answers it."""

    def is_active(self) -> bool:
        """Whether the caller still waits."""

    def time_remaining(self) -> float:
        """Seconds until the caller's deadline."""

    def add_callback(self, callback: Callable[[], Any], /) -> Any:
        """Calls it once the answer is taken, or nobody waits for it; false if that is so now."""


class Call:
    """The record of one request, from its arrival until its answer is on its way.

    A context manager: whatever ends the block, ``on_end`` receives the call.

    Attributes:
        method: name of the RPC.
        metadata: of the call.
        started: when it came, on `time.perf_counter`'s clock.
        begun: when it was read and in its turn, likewise.
        received, sent: bytes of its message and of its answer.
        code: name of the gRPC status that it ended with.
        compute, encode: seconds of computing, and of laying out the answer.
        size: images, boxes and patches; None if nothing was computed.
        without_patch: how many of the boxes hold no patch centre.
        caller: token or connection that it counts for.
        is_admitted: whether it is counted among the requests in flight.
        held: bytes that are counted as in flight for it.
        holders: how many still need them: the thread that answers and gRPC, one of them, or none.
    """

    def __init__(
        self,
        method: str,
        metadata: Metadata,
        started: float,
        on_end: Callable[[Call], None] = lambda _: None,
        *,
        caller: str | bytes = "",
        is_admitted: bool = False,
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.started = self.begun = started
        self._on_end = on_end
        self.caller = caller
        self.is_admitted = is_admitted
        self.received = self.sent = self.held = self.holders = 0
        self.code = "CANCELLED"  # unless it turns out otherwise
        self.compute = self.encode = 0.0
        self.size: Size | None = None
        self.without_patch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._on_end(self)

    @property
    def queue(self) -> float:
        """Seconds that it waited, for a slot and for its message, and was read."""
        return self.begun - self.started
