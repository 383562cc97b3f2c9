"""gRPC statuses as exceptions, from real servers that answer badly or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_client import (
    CassClient,
    CassError,
    InvalidRequest,
    MaskSpec,
    Overloaded,
    ServerError,
    Timeout,
    Unavailable,
)
from tests.server.support.raw_http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    data_frames,
    frame,
    header_frame,
    prefixed,
)

OPENS = {":status": "200", "content-type": "application/grpc"}

Answer = Callable[[Any, grpc.ServicerContext], Any]


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that answers every mask request like this."""

    class Service(cass_pb2_grpc.CassServiceServicer):
        def GenerateMask(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            return answer(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    cass_pb2_grpc.add_CassServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(timeout=60)


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
        (grpc.StatusCode.UNIMPLEMENTED, ServerError, "UNIMPLEMENTED: why"),
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
        error = ask(address, timeout=0.2)
    assert type(error) is kind
    assert str(error).endswith(text)


def test_nobody_is_there() -> None:
    with socket.socket() as probe:  # bound, not listening: nobody else can take the port
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        error = ask(address)
    assert type(error) is Unavailable
    assert str(error).startswith(f"{address}: ")


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


class CutsOff:
    """A proxy that loses its server in the middle of the first answer; on a bare socket.

    It ends the stream as HAProxy does: with what it has of the answer, and without trailers.
    """

    def __init__(self, listener: socket.socket, answer: bytes) -> None:
        self._listener = listener
        self._answer = prefixed(answer)
        self.calls = 0

    def serve(self) -> None:
        """Serve the one connection until its end."""
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as received:
            received.read(24)  # the preface
            connection.sendall(frame(SETTINGS))
            while len(head := received.read(9)) == 9:
                payload = received.read(int.from_bytes(head[:3]))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                if kind == SETTINGS and not flags:
                    connection.sendall(frame(SETTINGS, 1))
                elif kind == PING and not flags:
                    connection.sendall(frame(PING, 1, 0, payload))
                elif kind == HEADERS and stream == 1:  # which watches health, and is not told
                    connection.sendall(
                        header_frame(stream, {**OPENS, "grpc-status": "12"}, end=True)
                    )
                elif kind == DATA and stream > 1 and flags & END_STREAM:
                    self.calls += 1
                    connection.sendall(header_frame(stream, OPENS))
                    if self.calls == 1:
                        connection.sendall(data_frames(self._answer[:-1], stream))
                    else:
                        connection.sendall(data_frames(self._answer, stream, end=False))
                        connection.sendall(header_frame(stream, {"grpc-status": "0"}, end=True))


@pytest.mark.timeout(60)
def test_an_answer_that_is_cut_off_is_asked_for_again() -> None:
    mask = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 2, 2], data=bytes(16))
    answer = pb.GenerateMaskResponse(masks=[mask]).SerializeToString()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CutsOff(listener, answer)
        thread = threading.Thread(target=proxy.serve)
        thread.start()
        with CassClient(f"127.0.0.1:{listener.getsockname()[1]}") as client:
            masks = client.generate_mask([None], (8, 8), (2, 2), MaskSpec(patch_size=1))
        thread.join(60)
    assert masks.tolist() == [[[0, 0], [0, 0]]]
    assert proxy.calls == 2
