"""What a call does, step by step, for whoever carries the steps out: a thread or an event loop.

Everything between the steps (checks, retries, splitting, fallback) is written once, as generators
that yield steps and are sent what came of them; `cass_client.transport.sync` and
`cass_client.transport.aio` differ in no more than how they carry a step out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from cass_client.arguments import Masks
from cass_core.inputs import MaskInputs

T = TypeVar("T")

END = object()
"""There are no more requests."""


class Send(NamedTuple):
    """Call a method; gives the serialized answer, or raises a `grpc.RpcError`."""

    method: str
    request: bytes
    timeout: float


class SendWith(NamedTuple):
    """As `Send`, with metadata; gives the serialized answer and its trailing metadata."""

    method: str
    request: bytes
    timeout: float
    metadata: tuple[tuple[str, str], ...]


class Sleep(NamedTuple):
    """Wait; gives nothing."""

    seconds: float


class Compute(NamedTuple):
    """Run a function that takes a while; gives what it returns."""

    function: Callable[[], Any]


class Probe(NamedTuple):
    """Carry these steps out beside everything else, whatever comes of them; gives nothing."""

    steps: Callable[[], Generator[Any, Any, Any]]


Steps: TypeAlias = Generator[Send | SendWith | Sleep | Compute | Probe, Any, T]


class Take(NamedTuple):
    """Take the caller's next request; gives it, or `END` if there is none, or raises."""


class OpenStream(Protocol):
    """A stream of a channel's."""

    def write(self, message: bytes) -> None:
        """Write a message, without waiting."""

    def close(self) -> None:
        """End it, if it has not."""


class Open(NamedTuple):
    """Open a stream, which ends after the time that a call may take; gives an `OpenStream`."""


class Read(NamedTuple):
    """Read from a stream; gives a message, or None at its end, or raises a `grpc.RpcError`."""

    stream: Any


class Give(NamedTuple):
    """Give the caller a request's answer; gives nothing."""

    inputs: MaskInputs
    masks: Masks


StreamSteps: TypeAlias = Generator[
    Send | SendWith | Sleep | Compute | Probe | Take | Open | Read | Give, Any, T
]
