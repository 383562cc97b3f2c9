"""The router: which calls find a handler, and which are turned away before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cass.v1 import cass_pb2 as pb
from tests.server.support.details import fails
from tests.server.support.engines import HoldingEngine
from tests.server.support.in_thread import Running, running
from tests.server.support.processes import LIMIT
from tests.server.support.raw_http2 import Connection, call, opening
from tests.server.support.requests import Writer, mask_request

SERVICE = "cass.v1.CassService"
METHODS = ["GenerateMask", "ComputeLoss", "GetServerInfo", "StreamMasks"]
NEEDS_TOKEN = "a valid token is needed: authorization: Bearer TOKEN"
FRIEND = (("name", "friend"),)
TIMINGS = (("cass-timings", "1"),)


class Named:
    """Lets in callers that give their name, and counts them all."""

    def __init__(self) -> None:
        self.asked = 0

    def allows(self, metadata: Any) -> bool:
        self.asked += 1
        return FRIEND[0] in [tuple(entry) for entry in metadata]


@pytest.fixture
def caller() -> Named:
    return Named()


@pytest.fixture
def server(caller: Named) -> Iterator[Running]:
    with running(allows=caller.allows) as started:
        started.health.set(serving=True)
        yield started


def rejected(server: Running) -> float:
    """Callers that were turned away."""
    return server.counted().get(("cass_rejections_total", "unauthenticated"), 0)


def ask(server: Running, path: str, metadata: Any = ()) -> None:
    """A call that sends no message, and ends all the same."""
    writer: Writer[bytes] = Writer()
    made = server.channel.stream_stream(path)(iter(writer), timeout=LIMIT, metadata=metadata)
    try:
        next(made)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "path",
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
def test_unknown_methods_are_unimplemented(server: Running, path: str) -> None:
    with fails("UNIMPLEMENTED"):
        ask(server, path, FRIEND + TIMINGS)


@pytest.mark.parametrize("metadata", [(), TIMINGS], ids=["", "timings"])
@pytest.mark.parametrize(
    "path",
    [
        *(f"/{SERVICE}/{method}" for method in METHODS),
        f"/{SERVICE}/NoMethod",
        "/cass.v2.CassService/GenerateMask",
        "/grpc.health.v1.HealthCheck/Check",  # begins like an open one
    ],
)
def test_strangers_are_turned_away(server: Running, path: str, metadata: Any) -> None:
    """Before anything of theirs is read; nor do they learn which methods there are."""
    with fails("UNAUTHENTICATED", NEEDS_TOKEN):
        ask(server, path, metadata)
    assert rejected(server) == 1
    service, method = path[1:].split("/")
    is_known = service == SERVICE and method in METHODS
    assert server.ended() == ({(method, "UNAUTHENTICATED"): 1} if is_known else {})


def test_methods_without_timings_may_be_asked_for_them(server: Running) -> None:
    options = {"timeout": LIMIT, "metadata": FRIEND + TIMINGS}
    assert server.stub.GetServerInfo(pb.GetServerInfoRequest(), **options).device == "cpu"
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(server.stub.StreamMasks(iter(entries), **options))) == 1


def test_the_health_service_is_open(caller: Named, server: Running) -> None:
    assert server.health_check() == "SERVING"
    assert caller.asked == rejected(server) == 0


def test_every_call_is_checked(server: Running, caller: Named) -> None:
    """A connection that has let one call in lets in no other for that."""
    generate = server.stub.GenerateMask
    assert generate(mask_request(), timeout=LIMIT, metadata=FRIEND).masks
    with fails("UNAUTHENTICATED"):
        generate(mask_request(), timeout=LIMIT)
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(server.stub.StreamMasks(iter(entries), timeout=LIMIT, metadata=FRIEND))) == 1
    assert caller.asked == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_closed_router_turns_all_away(server: Running, caller: Named, method: str) -> None:
    """With UNAVAILABLE, before a message of theirs is read; strangers learn no more."""
    server.router.close()
    for metadata in (FRIEND, ()):
        with fails("UNAVAILABLE", "the server is stopping"):
            ask(server, f"/{SERVICE}/{method}", metadata)
    assert server.ended() == {(method, "UNAVAILABLE"): 2}
    assert rejected(server) == caller.asked == 0
    assert server.health_check() == "SERVING"


def test_calls_let_in_before_it_closes_are_answered() -> None:
    engine = HoldingEngine()
    with running(engine) as server:
        with engine.holding(server.stub) as (made,):
            server.router.close()
        assert len(made.result().masks) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_has_the_callers_id_and_no_message(server: Running, method: str) -> None:
    """On the wire: one frame of headers ends a call that has sent none but its own."""
    with Connection(server.address) as client:
        client.send(opening(), call(method, **{"x-request-id": "job-7"}))
        headers = client.refusal()
    assert b"grpc-status\x0216" in headers
    assert b"x-request-id\x05job-7" in headers
