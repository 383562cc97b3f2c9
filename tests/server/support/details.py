"""What errors carry beside their message."""

from __future__ import annotations

import grpc
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status


def violations(error: grpc.RpcError) -> list[tuple[str, str]]:
    """Field and description of each violation in the one `google.rpc.BadRequest`."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.message == error.details()
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    return [(violation.field, violation.description) for violation in bad.field_violations]


def told(error: grpc.RpcError) -> tuple[str, float]:
    """Message and seconds to wait of a refusal with its one `google.rpc.RetryInfo`."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.message == error.details()
    (detail,) = status.details
    info = error_details_pb2.RetryInfo()
    assert detail.Unpack(info)
    return status.message, info.retry_delay.ToNanoseconds() / 1e9
