"""Errors that end a request without an answer; each has its gRPC status code."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import grpc

from cass_core.errors import CassError

# So that it fits into the metadata of an answer.
_METHOD_LENGTH = 200


class Rejection(CassError):
    """A request that the server rejects, for a reason that the caller may know."""

    code: ClassVar[grpc.StatusCode]
    reason: str = ""
    """Its label in the metric ``cass_rejections_total``; empty if it is not counted there."""


class Overloaded(Rejection):
    """So many requests, bytes or streams are in flight; the delay says when to retry, 0 nothing.

    The first word of ``reason`` is what the metric has.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, reason: str, limit: int, delay: float) -> None:
        super().__init__(f"the server is full: {limit} {reason} in flight at most")
        self.reason = reason.partition(" ")[0]
        self.delay = delay


class DeviceFull(Overloaded):
    """The device had too little free memory for a request; what others hold of it gets free."""

    def __init__(self, delay: float) -> None:
        CassError.__init__(self, "the device has too little memory for this request at present")
        self.reason = "memory"
        self.delay = delay


class Expired(Rejection):
    """The caller's deadline passed before the computation began."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class Cancelled(Rejection):
    """The caller cancelled or disconnected."""

    code = grpc.StatusCode.CANCELLED
    reason = "cancelled"


class Unauthenticated(Rejection):
    """The caller has no valid token."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("a valid token is needed: authorization: Bearer TOKEN")


class Stopping(Rejection):
    """The server is stopping; another replica can answer."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class NotFound(Rejection):
    """There is no model of the name or the version."""

    code = grpc.StatusCode.NOT_FOUND


class Unimplemented(Rejection):
    """The server has no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, method: str) -> None:
        super().__init__(f"there is no method {method[:_METHOD_LENGTH]}")


class EngineBroken(Rejection):
    """The device is unusable in this process; a replacement can answer."""

    code = grpc.StatusCode.UNAVAILABLE


class NotCompiled(Exception):
    """A request needs a variant of a kernel that has to be compiled first; no status is for it.

    Attributes:
        compile: does that, elsewhere, and returns when the request can be computed.
    """

    def __init__(self, kernel: str, compile: Callable[[], None]) -> None:
        super().__init__(f"{kernel} is not compiled for this request")
        self.compile = compile
