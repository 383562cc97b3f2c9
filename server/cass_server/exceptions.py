"""What ends a request without an answer; each knows its gRPC status."""

from __future__ import annotations

from typing import ClassVar

import grpc

from cass_core.errors import CassError


class Rejection(CassError):
    """A request that the server does not answer, for a reason that callers may know.

    Attributes:
        code: the gRPC status.
        reason: its label in the metric ``cass_rejections_total``; empty if it is not counted there.
    """

    code: ClassVar[grpc.StatusCode]
    reason: str = ""


class Overloaded(Rejection):
    """There is no room for a request.

    Args:
        reason: ``requests``, ``bytes`` or ``streams``, whichever limit is reached.
        limit: its value.
        delay: seconds after which to try again; 0 where that is for the caller to decide.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, reason: str, limit: int, delay: float) -> None:
        super().__init__(f"the server is full: {limit} {reason} in flight at most")
        self.reason = reason
        self.delay = delay


class Expired(Rejection):
    """The caller's deadline passed before the computation began."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class Cancelled(Rejection):
    """The caller is gone."""

    code = grpc.StatusCode.CANCELLED
    reason = "cancelled"


class Unauthenticated(Rejection):
    """The caller has no token that is valid."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("a valid token is needed: authorization: Bearer TOKEN")


class Stopping(Rejection):
    """The server stops; another replica can answer."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class EngineBroken(Rejection):
    """The device computes nothing any more in this process; its replacement can answer."""

    code = grpc.StatusCode.UNAVAILABLE
