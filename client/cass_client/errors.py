"""Errors that only a remote call can have, and the mapping of gRPC statuses to exceptions."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cass.contract import REQUEST_ID_KEY
from cass_core.errors import CassError, InvalidRequest


class Timeout(CassError):
    """The server did not answer within the deadline."""


class Unavailable(CassError):
    """The server cannot be reached."""


class NoReplicas(Unavailable):
    """No replica of a service on Ray is listed, or, if not certain, its directory is silent."""

    def __init__(self, message: str, is_certain: bool = True) -> None:
        super().__init__(message)
        self.is_certain = is_certain


class Unauthenticated(CassError):
    """The server wants a token, or refuses the one it was given."""


class Overloaded(CassError):
    """The server has no room for the request.

    Attributes:
        retry_delay: seconds after which the server takes a retry; 0 if it does not say.
    """

    def __init__(self, message: str, retry_delay: float = 0.0) -> None:
        super().__init__(message)
        self.retry_delay = retry_delay

    def __reduce__(self) -> tuple[type[Overloaded], tuple[str, float]]:
        return type(self), (str(self), self.retry_delay)


class ServerError(CassError):
    """The server answered with another error, whose gRPC status is the cause, or wrongly."""


def from_rpc_error(error: grpc.RpcError, target: str) -> CassError:
    """The exception for a failed call; raise it from ``error``, so that the status is the cause."""
    code = error.code()
    details = _details(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad_request = details.get("BadRequest")
        if bad_request is not None and bad_request.field_violations:
            violation = bad_request.field_violations[0]
            return InvalidRequest(violation.field, violation.description)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "RetryInfo" in details:
        delay = details["RetryInfo"].retry_delay
        return Overloaded(f"{target}: {error.details()}", delay.seconds + delay.nanos / 1e9)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not _is_too_large(error):
        return Overloaded(f"{target}: {error.details()}")  # gRPC's own refusals do not say when
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"{target}: no answer within the deadline")
    if code is grpc.StatusCode.UNAVAILABLE or _is_cut_off(error):
        return Unavailable(f"{target}: {error.details()}")
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unauthenticated(f"{target}: {error.details()}")
    hint = ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        hint = ": there is a gRPC server, but perhaps not of CASS"
    return ServerError(f"{target}: {code.name}: {error.details()}{hint}{_request_id(error)}")


def _is_too_large(error: grpc.RpcError) -> bool:
    """Whether a message was refused for its size, by gRPC: in C and in Go, or in Java.

    It has the code of a lack of room, but no other moment is better.
    """
    details = str(error.details())
    return "larger than max" in details or "exceeds maximum size" in details


def _is_cut_off(error: grpc.RpcError) -> bool:
    """Whether a stream ended without a status, in the middle of an answer.

    A proxy whose server is lost does that. gRPC has no name of its own for it: a stream that just
    ends is UNKNOWN to it, and one that is reset may be INTERNAL.
    """
    details = str(error.details())
    return error.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) and (
        details.startswith("Stream removed") or "RST_STREAM" in details
    )


def _details(error: grpc.RpcError) -> dict[str, Any]:
    """What the status carries beside its text, by the name of the message."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # it contradicts itself, or is none
        return {}
    found = {}
    for detail in status.details if status is not None else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    return found


def _request_id(error: grpc.RpcError) -> str:
    """The id of the call in the server's log, if the server sent it."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            return f" (request {value})"
    return ""
