"""The router: which calls find a handler, and which are turned away before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.calls import Writer, counted, requests_counted
from tests.server.support.engines import HELD, Held
from tests.server.support.in_thread import Running, connected, running, service_channel
from tests.server.support.processes import LIMIT
from tests.server.support.raw_http2 import DATA, END_STREAM, HEADERS, Connection, call, opening
from tests.server.support.requests import mask_request

SERVICE = "cass.v1.CassService"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


class Named:
    """Lets in who says so, and keeps what was asked of it."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = 0

    def allows(self, metadata: Any) -> bool:
        """Whether the caller gives its name."""
        self.asked += 1
        return ("name", "friend") in [tuple(entry) for entry in metadata]


@pytest.fixture
def caller() -> Named:
    return Named()


@pytest.fixture
def server(caller: Named) -> Iterator[Running]:
    with running(allows=caller.allows) as started:
        started.health.set(serving=True)
        yield started


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with connected(server.address) as found:
        yield found


def rejected(server: Running) -> float:
    """Who was turned away."""
    return counted(server.metrics).get(("cass_rejections_total", "unauthenticated"), 0)


FRIEND = (("name", "friend"),)


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/NoMethod",
        f"/{SERVICE}/generatemask",
        f"/{SERVICE}/GenerateMask/",
        f"/{SERVICE}",
        "/cass.v2.CassService/GenerateMask",
        "/grpc.health.v1.Health/NoMethod",
        "/NoService/Check",
        "GenerateMask",
        "/",
    ],
)
def test_unknown_methods_are_unimplemented(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"", timeout=LIMIT, metadata=FRIEND)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss", "GetServerInfo", "StreamMasks"])
def test_strangers_are_turned_away(channel: grpc.Channel, server: Running, method: str) -> None:
    """Before anything of theirs is read: the call ends though no message ever comes."""
    writer: Writer[bytes] = Writer()
    call = channel.stream_stream(f"/{SERVICE}/{method}")(iter(writer), timeout=LIMIT)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    writer.close()
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "a valid token is needed: authorization: Bearer TOKEN"
    assert rejected(server) == 1


ASKING = ("cass-timings", "1")


def test_strangers_are_turned_away_whatever_they_ask(
    channel: grpc.Channel, server: Running
) -> None:
    stub = cass_pb2_grpc.CassServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(mask_request(), timeout=LIMIT, metadata=(ASKING,))
    assert caught.value.code() is UNAUTHENTICATED
    assert rejected(server) == 1


def test_methods_without_timings_may_be_asked_for_them(channel: grpc.Channel) -> None:
    stub = cass_pb2_grpc.CassServiceStub(channel)
    options = {"timeout": LIMIT, "metadata": (*FRIEND, ASKING)}
    assert stub.GetServerInfo(pb.GetServerInfoRequest(), **options).device == "cpu"
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(stub.StreamMasks(iter(entries), **options))) == 1
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/NoMethod")(b"", **options)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", [SERVICE, "cass.v2.CassService"])
@pytest.mark.parametrize("method", ["NoMethod", "GenerateMask"])
def test_strangers_are_not_told_what_there_is(
    channel: grpc.Channel, server: Running, service: str, method: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{service}/{method}")(b"", timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED
    assert rejected(server) == 1
    is_known = (service, method) == (SERVICE, "GenerateMask")
    counts = {("GenerateMask", "UNAUTHENTICATED"): 1} if is_known else {}
    assert requests_counted(server.metrics) == counts


def test_open_services_ask_nobody(channel: grpc.Channel, caller: Named, server: Running) -> None:
    for service in ("", SERVICE):
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=LIMIT
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert caller.asked == 0
    assert rejected(server) == 0


def test_a_name_that_begins_like_an_open_one_is_not_open(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.HealthCheck/Check")(b"", timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED


def test_every_call_is_asked_about_anew(channel: grpc.Channel, caller: Named) -> None:
    """A connection that has let one call in lets in no other for that."""
    stub = cass_pb2_grpc.CassServiceStub(channel)
    assert stub.GenerateMask(mask_request(), timeout=LIMIT, metadata=FRIEND).masks
    with pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(mask_request(), timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(stub.StreamMasks(iter(entries), timeout=LIMIT, metadata=FRIEND))) == 1
    assert caller.asked == 3


def test_without_an_authenticator_everybody_is_let_in() -> None:
    with service_channel() as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        assert stub.GenerateMask(mask_request(), timeout=LIMIT).masks


METHODS = ["GenerateMask", "ComputeLoss", "GetServerInfo", "StreamMasks"]


@pytest.mark.parametrize("method", METHODS)
def test_a_closed_router_turns_all_away(
    server: Running, channel: grpc.Channel, caller: Named, method: str
) -> None:
    """With UNAVAILABLE, before a message of theirs is read; strangers learn no more."""
    server.router.close()
    for metadata in (FRIEND, ()):
        writer: Writer[bytes] = Writer()
        made = channel.stream_stream(f"/{SERVICE}/{method}")(
            iter(writer), timeout=LIMIT, metadata=metadata
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(made)
        writer.close()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the server is stopping"
    assert requests_counted(server.metrics) == {(method, "UNAVAILABLE"): 2}
    assert rejected(server) == caller.asked == 0
    # Who probes is told the truth until the end.
    check = health_pb2_grpc.HealthStub(channel).Check
    assert check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status


def test_who_was_let_in_before_is_answered_after_it_closes() -> None:
    engine = Held()
    with running(engine) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        made = stub.GenerateMask.future(mask_request(HELD), timeout=LIMIT)
        assert engine.waiting.acquire(timeout=LIMIT)
        server.router.close()
        engine.go.set()
        assert len(made.result(timeout=LIMIT).masks) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_has_the_callers_id_and_no_message(server: Running, method: str) -> None:
    """On the wire: one frame of headers ends a call that has sent none but its own."""
    with Connection(server.address) as client:
        client.send(opening(), call(method, **{"x-request-id": "job-7"}))
        while (got := client.read()) is not None:
            kind, flags, on, payload = got
            assert kind != DATA
            if on == 1 and kind == HEADERS and flags & END_STREAM:
                break
        assert got is not None
        assert b"grpc-status\x0216" in payload
        assert b"x-request-id\x05job-7" in payload
