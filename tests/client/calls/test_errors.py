"""gRPC statuses as exceptions, from real servers that answer badly or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest

from cass_client import (
    CassClient,
    CassError,
    InvalidRequest,
    Overloaded,
    ServerError,
    Timeout,
    Unavailable,
)
from tests.client.support.small_servers import MaskService, serving_with

Answer = Callable[[Any, grpc.ServicerContext], Any]


def answering(answer: Answer) -> AbstractContextManager[str]:
    """The address of a server that answers every mask request like this."""
    return serving_with(MaskService(answer=answer))


def ask(address: str, timeout: float = 60) -> CassError:
    with CassClient(address, timeout=timeout) as client, pytest.raises(CassError) as caught:
        client.generate_mask([None], (8, 8), (2, 2))
    error: CassError = caught.value
    return error


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (grpc.StatusCode.INTERNAL, ServerError, "INTERNAL: why"),
        (grpc.StatusCode.UNKNOWN, ServerError, "UNKNOWN: why"),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            ServerError,
            "UNIMPLEMENTED: why: there is a gRPC server, but perhaps not of CASS",
        ),
        # Without a BadRequest no field is known.
        (grpc.StatusCode.INVALID_ARGUMENT, ServerError, "INVALID_ARGUMENT: why"),
        (grpc.StatusCode.UNAVAILABLE, Unavailable, "why"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Timeout, "no answer within the deadline"),
    ],
)
def test_statuses(code: grpc.StatusCode, kind: type[CassError], text: str) -> None:
    with answering(lambda _, context: context.abort(code, "why")) as address:
        error = ask(address)
    assert type(error) is kind
    assert str(error) == f"{address}: {text}"
    assert isinstance(error.__cause__, grpc.RpcError)
    assert error.__cause__.code() is code


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Concurrent RPC limit exceeded!", Overloaded),  # gRPC's in Python
        ("quota", Overloaded),
        ("SERVER: Received message larger than max (5 vs. 4)", ServerError),  # in C
        ("grpc: received message larger than max (5 vs. 4)", ServerError),  # in Go
        ("gRPC message exceeds maximum size 4: 5", ServerError),  # in Java
    ],
)
def test_no_room_is_not_a_message_that_is_too_large(text: str, kind: type[CassError]) -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    with answering(lambda _, context: context.abort(code, text)) as address:
        error = ask(address, timeout=2)
    assert type(error) is kind
    assert str(error).endswith(text)


def test_no_answer() -> None:
    release = threading.Event()

    def wait(_: Any, context: grpc.ServicerContext) -> Any:
        release.wait(timeout=60)
        context.abort(grpc.StatusCode.CANCELLED, "too late")

    with answering(wait) as address:
        error = ask(address, timeout=0.2)
        release.set()
    assert type(error) is Timeout


def test_bad_arguments_are_not_sent() -> None:
    with answering(lambda *_: pytest.fail("was called")) as address:
        client = CassClient(address)
        with client, pytest.raises(InvalidRequest, match=r"^boxes\[0\]\[0\].x2: is smaller"):
            client.generate_mask([[[5, 0, 1, 1]]], (8, 8), (2, 2))
