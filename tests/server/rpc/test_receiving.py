"""Messages before threads, and the plain way of a gRPC that cannot be asked for that."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from cass_server.rpc import health, receiving, servicer
from cass_server.rpc.receiving import Received
from tests.server.support.details import fails
from tests.server.support.engines import HoldingEngine
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT
from tests.server.support.raw_http2 import RST_STREAM, Connection, call, frames, opening
from tests.server.support.requests import Stream, loss_request, mask_request


def test_the_installed_grpc_is_as_expected() -> None:
    assert receiving.IS_SUPPORTED


@pytest.mark.parametrize("is_supported", [True, False], ids=["message first", "plain"])
def test_both_ways_are_alike(is_supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "IS_SUPPORTED", is_supported)
    engine = HoldingEngine()
    with running(engine, Limits(requests_in_flight=1)) as server:
        (mask,) = server.stub.GenerateMask(mask_request(images=3), timeout=LIMIT).masks
        assert list(mask.shape) == [3, 4, 4]
        # 4 x 4 patches of zero logits: the mean of sixteen equal normalisers.
        assert server.stub.ComputeLoss(loss_request(), timeout=LIMIT).normalizer == 16
        stream = Stream(server.stub, *map(mask_request, (1, 3, 4)))
        assert [stream.images() for _ in range(3)] == [1, 3, 4]
        with fails("INVALID_ARGUMENT", "request: is missing"):
            ask = server.channel.stream_unary("/cass.v1.CassService/GenerateMask")
            ask(iter(()), timeout=LIMIT)
        with engine.holding(server.stub) as (first,), fails("RESOURCE_EXHAUSTED"):
            server.stub.GenerateMask(mask_request(), timeout=LIMIT)
        assert len(first.result().masks) == 1


def test_plain_calls_without_a_message_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, although threads wait for it."""
    for module in (receiving, servicer, health):
        monkeypatch.setattr(module, "IS_SUPPORTED", False)
    asked = [("cass.v1.CassService", name) for name in ("GenerateMask", "GetServerInfo")]
    asked.append((health.SERVICE_NAME, "Check"))
    streams = dict(zip((1, 3, 5), asked, strict=True))
    with (
        running(limits=Limits(receive_seconds=1)) as server,
        Connection(server.address) as client,
    ):
        silent = [call(method, s, service=service) for s, (service, method) in streams.items()]
        client.send(opening(), *silent)
        assert {got[2] for got in frames(client, RST_STREAM, 3)} == set(streams)


def no_threads(patch: pytest.MonkeyPatch, prefix: str) -> None:
    """From now on no more threads of this name can be started."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    patch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("boxes", [1, 10_000])
def test_a_call_without_a_thread_is_cancelled(boxes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes on, and place and bytes are given back."""
    with running(limits=Limits(requests_in_flight=1)) as server:
        with monkeypatch.context() as patch:
            no_threads(patch, "compute")
            for _ in range(2):
                with fails("CANCELLED"):
                    server.stub.GenerateMask(mask_request(boxes=boxes), timeout=LIMIT)
        assert server.has_room()
        server.assert_all_is_given_back()


def test_a_stream_without_a_thread_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is given back."""
    with running(limits=Limits(streams=2)) as server:
        with monkeypatch.context() as patch:
            no_threads(patch, "stream")
            for _ in range(3):
                with fails("CANCELLED"):
                    Stream(server.stub, mask_request()).images()
        streams = [Stream(server.stub, mask_request()) for _ in range(2)]
        assert [stream.images() for stream in streams] == [1, 1]


def test_an_answer_that_cannot_be_sent_is_its_callers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where gRPC's serving thread answers."""

    def fails_to_send(*_: object) -> None:
        raise MemoryError

    with running() as server:
        with monkeypatch.context() as patch:
            patch.setattr(grpc._server, "_status", fails_to_send)
            with fails("CANCELLED"):
                server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        assert server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT).device == "cpu"


class Late:
    """The context of a call that was cancelled, as far as gRPC has not reported that yet."""

    status: grpc.Status | None = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def add_callback(self, _: object) -> bool:
        return True

    def time_remaining(self) -> float:
        return LIMIT

    def abort_with_status(self, status: grpc.Status) -> None:
        self.status = status


@pytest.mark.parametrize(("in_time", "code"), [(True, "INVALID_ARGUMENT"), (False, "CANCELLED")])
def test_a_call_without_a_message_ends_by_what_happened(in_time: bool, code: str) -> None:
    """One that was cancelled for it was no invalid request, even if gRPC reports it too late."""
    with running() as server:
        call = SimpleNamespace(method="/cass.v1.CassService/GenerateMask", invocation_metadata=())
        handler = server.router.service(cast(grpc.HandlerCallDetails, call))
        assert handler is not None
        method: Any = handler.stream_unary
        context = Late()
        method(Received(None, None, in_time), context)
        assert context.status is not None
        assert context.status.code.name == code
        assert server.ended() == {("GenerateMask", code): 1}
