"""Errors as gRPC statuses: the one place that maps them."""

from __future__ import annotations

import functools

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_server.exceptions import EngineBroken, Overloaded, Rejection

_INTERNAL = "internal error; see the server's log"


def code_of(error: Exception) -> grpc.StatusCode:
    """The gRPC status code for an error."""
    if isinstance(error, InvalidRequest):
        return grpc.StatusCode.INVALID_ARGUMENT
    return error.code if isinstance(error, Rejection) else grpc.StatusCode.INTERNAL


def status_of(error: Exception) -> grpc.Status:
    """The status that ends a call.

    INVALID_ARGUMENT comes with a `google.rpc.BadRequest` that names the field, RESOURCE_EXHAUSTED
    with a `google.rpc.RetryInfo`, and INTERNAL with nothing of the inside.
    """
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.reason
        )
        detail = error_details_pb2.BadRequest(field_violations=[violation])
        return _status(grpc.StatusCode.INVALID_ARGUMENT, str(error), detail)
    if isinstance(error, Overloaded):
        # To the hundredth, so that a flood is answered with few messages made once.
        return _overloaded(str(error), max(round(error.delay, 2), 0.01))
    return _status(code_of(error), message_of(error))


def entry_of(error: Exception) -> bytes:
    """The serialized entry of a stream for an error: what `status_of` has, as a message."""
    code: int = code_of(error).value[0]
    entry = pb.Error(code=code, message=message_of(error))
    if isinstance(error, InvalidRequest):
        entry.field, entry.reason = error.field, error.reason
    return pb.StreamMasksResponse(error=entry).SerializeToString()


def clear_tracebacks(error: BaseException | None) -> None:
    """Let go of what the functions that an error came through held, and of those before it."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def message_of(error: Exception) -> str:
    """What the caller may know of an error."""
    is_public = isinstance(error, InvalidRequest | Rejection) and not isinstance(
        error, EngineBroken
    )
    return str(error) if is_public else _INTERNAL


@functools.lru_cache(maxsize=512)
def _overloaded(message: str, delay: float) -> grpc.Status:
    wait = duration_pb2.Duration(seconds=int(delay), nanos=round(delay % 1 * 1e9))
    detail = error_details_pb2.RetryInfo(retry_delay=wait)
    return _status(grpc.StatusCode.RESOURCE_EXHAUSTED, message, detail)


def _status(code: grpc.StatusCode, message: str, *details: Message) -> grpc.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    converted: grpc.Status = rpc_status.to_status(status)
    return converted
