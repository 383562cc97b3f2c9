"""Errors as gRPC statuses: the one place that maps them."""

from __future__ import annotations

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from cass_core.errors import InvalidRequest


def bad_request(error: InvalidRequest) -> grpc.Status:
    """INVALID_ARGUMENT with a `google.rpc.BadRequest` that names the field."""
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=str(error))
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=error.field, description=error.reason
    )
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    converted: grpc.Status = rpc_status.to_status(status)
    return converted
