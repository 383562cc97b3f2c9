"""Errors as HTTP's statuses with a JSON body, and as Connect's: the one place that maps them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import grpc
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.rpc import status_pb2
from protobuf.wkt import Any as AnyMessage
from pydantic_core import to_json

from cass_core.errors import InvalidRequest
from cass_server.exceptions import Overloaded, Rejection
from cass_server.rpc.status import code_of, message_of, status_of

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# What status details are named in gRPC's metadata.
_DETAILS = "grpc-status-details-bin"


class HttpRejection(Rejection):
    """A refusal with an HTTP status of its own, not that of its gRPC code."""

    status: ClassVar[int]


class NoSuchPath(HttpRejection):
    """There is nothing at the path."""

    code, status = grpc.StatusCode.UNIMPLEMENTED, 404

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no path {path[:200]}")


class WrongMethod(HttpRejection):
    """The path takes another method, which ``allowed`` names."""

    code, status = grpc.StatusCode.UNIMPLEMENTED, 405

    def __init__(self, allowed: str) -> None:
        super().__init__(f"only {allowed} is possible here")
        self.allowed = allowed


class WrongType(HttpRejection):
    """The content type is not one that the path reads."""

    code, status = grpc.StatusCode.UNIMPLEMENTED, 415

    def __init__(self, known: str = "application/json, without a content-encoding") -> None:
        super().__init__(f"the content-type must be {known}")


class TooLarge(HttpRejection):
    """The body has more bytes than there may be."""

    code, status = grpc.StatusCode.RESOURCE_EXHAUSTED, 413

    def __init__(self, most: int) -> None:
        super().__init__(f"the body has more than {most} bytes, the limit here")


class SlowBody(HttpRejection):
    """The body has not arrived in time."""

    code, status = grpc.StatusCode.DEADLINE_EXCEEDED, 408

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the body did not arrive within {seconds:g} seconds")


class ErrorAnswer(NamedTuple):
    """How an answer for an error looks."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def error_answer(error: Exception) -> ErrorAnswer:
    """The answer for an error, with nothing of the inside.

    Example:
        >>> answer = error_answer(InvalidRequest("boxes", "is missing"))
        >>> answer.status, answer.body.decode()
        (400, '{"error":{"code":"INVALID_ARGUMENT","message":"boxes: is missing",\
"field":"boxes","reason":"is missing"}}')
    """
    code = code_of(error).name
    content: dict[str, Any] = {"code": code, "message": message_of(error)}
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, InvalidRequest):
        content["field"], content["reason"] = error.field, error.reason
    elif isinstance(error, Overloaded):
        content["retry_after_seconds"] = round(max(error.delay, 0.01), 2)
        headers = (("retry-after", str(math.ceil(error.delay) or 1)),)
    elif isinstance(error, WrongMethod):
        headers = (("allow", error.allowed),)
    elif code == "UNAUTHENTICATED":
        headers = (("www-authenticate", "Bearer"),)
    status = error.status if isinstance(error, HttpRejection) else _STATUSES.get(code, 500)
    return ErrorAnswer(status, headers, to_json({"error": content}))


def connect_error(error: Exception) -> ConnectError:
    """The error for callers by Connect and gRPC-Web, with the details that gRPC's callers get."""
    status = status_of(error)
    packed = dict(status.trailing_metadata or ()).get(_DETAILS, b"")
    details = [
        ErrorDetail(AnyMessage(type_url=detail.type_url, value=detail.value))
        for detail in status_pb2.Status.FromString(packed).details
    ]
    name = status.code.name
    code = Code.CANCELED if name == "CANCELLED" else Code[name]
    return ConnectError(code, message_of(error), details)
