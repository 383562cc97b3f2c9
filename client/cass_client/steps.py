"""What a call does, step by step, for whoever carries the steps out: a thread or an event loop.

Everything between the steps (checks, retries, splitting, fallback) is written once, as generators
that yield steps and are sent what came of them; `cass_client.link` and `cass_client.async_link`
differ in no more than how they carry a step out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cass_client.requests import Masks
from cass_core.masks import MaskInputs

T = TypeVar("T")

END = object()
"""There are no more requests."""


class Send(NamedTuple):
    """Call a method; gives `Received`, or raises a `grpc.RpcError`."""

    method: str
    request: bytes
    timeout: float
    metadata: tuple[tuple[str, str], ...] = ()


class Received(NamedTuple):
    """What a server answered.

    Attributes:
        message: the serialized answer.
        trailing_metadata: only where the call had metadata of its own, since it costs.
    """

    message: bytes
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Sleep(NamedTuple):
    """Wait; gives nothing."""

    seconds: float


class Compute(NamedTuple):
    """Run a function that takes a while; gives what it returns."""

    function: Callable[[], Any]


class Probe(NamedTuple):
    """Carry these steps out beside everything else, whatever comes of them; gives nothing."""

    steps: Callable[[], Generator[Any, Any, Any]]


Steps: TypeAlias = Generator[Send | Sleep | Compute | Probe, Any, T]


class Take(NamedTuple):
    """Take the caller's next request; gives it, or `END` if there is none, or raises."""


class Open(NamedTuple):
    """Open a stream, which ends after the time that a call may take; gives nothing."""


class Write(NamedTuple):
    """Write to the stream, without waiting; gives nothing."""

    message: bytes


class Read(NamedTuple):
    """Read from the stream; gives a message, or None at its end, or raises a `grpc.RpcError`."""


class Close(NamedTuple):
    """End the stream, if it has not; gives nothing."""


class Give(NamedTuple):
    """Give the caller a request's answer; gives nothing."""

    inputs: MaskInputs
    masks: Masks


StreamSteps: TypeAlias = Generator[
    Send | Sleep | Compute | Probe | Take | Open | Write | Read | Close | Give, Any, T
]
