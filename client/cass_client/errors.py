"""Errors that only a remote call can have, and the mapping of gRPC statuses to exceptions."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cass_core.errors import CassError, InvalidRequest


class Timeout(CassError):
    """The server did not answer within the deadline."""


class Unavailable(CassError):
    """The server cannot be reached."""


class ServerError(CassError):
    """The server answered with another error; the gRPC status is the cause."""


def from_rpc_error(error: grpc.RpcError, target: str) -> CassError:
    """The exception for a failed call; raise it from ``error``, so that the status is the cause."""
    code = error.code()
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request) and bad_request.field_violations:
                violation = bad_request.field_violations[0]
                return InvalidRequest(violation.field, violation.description)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"{target}: no answer within the deadline")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"{target}: {error.details()}")
    return ServerError(f"{target}: {code.name}: {error.details()}")
