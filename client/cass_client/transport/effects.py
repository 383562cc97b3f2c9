"""The effects of a call: what its generator yields, for a thread or an event loop to carry out.

Everything between the effects (checks, retries, chunking, fallback) is written once, in
`cass_client.calls`; `cass_client.transport.sync` and `cass_client.transport.aio` differ in no more
than how they carry an effect out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from cass_client.arguments import Masks
from cass_core.inputs import MaskInputs

T = TypeVar("T")

END = object()
"""There are no more requests."""


class Send(NamedTuple):
    """Call a method; gives the serialized answer, or raises a `grpc.RpcError`.

    Where it has metadata, it gives a pair: the answer and its trailing metadata.
    """

    method: str
    request: bytes
    timeout: float
    metadata: tuple[tuple[str, str], ...] = ()


class Sleep(NamedTuple):
    """Wait; gives nothing."""

    seconds: float


class Compute(NamedTuple):
    """Run a function that takes a while; gives what it returns."""

    function: Callable[[], Any]


class Probe(NamedTuple):
    """Run another call in the background, whatever comes of it; gives nothing."""

    call: Callable[[], Generator[Any, Any, Any]]


class Take(NamedTuple):
    """Take the caller's next request; gives it, or `END` if there is none, or raises."""


class OpenStream(Protocol):
    """A stream of a channel's."""

    def write(self, message: bytes) -> None:
        """Write a message, without waiting."""

    def end(self) -> None:
        """Write no more; what is still to be answered can be read."""

    def close(self) -> None:
        """Cancel it, if it has not ended."""


class Open(NamedTuple):
    """Open a stream, which ends after the time that a call may take; gives an `OpenStream`."""


class Read(NamedTuple):
    """Read from a stream; gives a message, or None at its end, or raises a `grpc.RpcError`."""

    stream: Any


class Give(NamedTuple):
    """Give the caller a request's answer; gives nothing."""

    inputs: MaskInputs
    masks: Masks


Effect: TypeAlias = Send | Sleep | Compute | Probe | Take | Open | Read | Give
Effects: TypeAlias = Generator[Effect, Any, T]


class Run(Generic[T]):
    """A run of a call's effects, one `next` after another. Carry each out in the run's context.

    Attributes:
        outcome: of the effect, to be set; what leaves the context is raised in the call.
        result: of the call, after its last effect.
    """

    outcome: Any = None
    result: T
    _error: Exception | None = None

    def __init__(self, effects: Effects[T]) -> None:
        self._effects = effects

    def next(self) -> Effect | None:
        """The next effect; None after the last one."""
        outcome, error = self.outcome, self._error
        self.outcome = self._error = None
        try:
            return self._effects.send(outcome) if error is None else self._effects.throw(error)
        except StopIteration as stop:
            self.result = stop.value
            return None

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        self._error = error if isinstance(error, Exception) else None
        return self._error is not None
