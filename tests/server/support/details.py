"""What failed calls carry: status, message and error details."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@contextlib.contextmanager
def fails(code: str, details: str | None = None) -> Iterator[pytest.ExceptionInfo[grpc.RpcError]]:
    """What is called within must end with this status, and with this message if one is given."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert caught.value.code().name == code
    assert details is None or caught.value.details() == details


def _detail(error: grpc.RpcError, kind: Any) -> Any:
    """The one detail of an error, which is of this kind."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    (detail,) = status.details
    found = kind()
    assert detail.Unpack(found)
    return found


def violations(error: grpc.RpcError) -> list[tuple[str, str]]:
    """Field and description of each violation in the one `google.rpc.BadRequest`."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = _detail(error, error_details_pb2.BadRequest).field_violations
    return [(violation.field, violation.description) for violation in found]


def retry_delay(error: grpc.RpcError) -> float:
    """Seconds to wait, from the one `google.rpc.RetryInfo` of a refusal."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    delay = _detail(error, error_details_pb2.RetryInfo).retry_delay
    return float(delay.ToNanoseconds() / 1e9)
