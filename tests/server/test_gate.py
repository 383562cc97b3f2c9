"""The gate: which calls find a handler, and which are turned away before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server import health
from cass_server.admission import Admission
from cass_server.engine import CpuEngine
from cass_server.gate import Gate
from cass_server.health import Health
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.service import CassService
from tests.server.calls import LIMIT, Writer, counted
from tests.server.in_thread import behind
from tests.server.requests import mask_request

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


class Both:
    """A server with the service and the health checks behind a gate."""

    def __init__(self) -> None:
        """Nobody has called yet."""
        self.caller = Named()
        self.metrics = Metrics()
        self.gate = Gate(self.caller, self.metrics, (health.SERVICE_NAME,))

    def add(self, executor: Executor) -> None:
        """Put both behind it."""
        limits = Limits()
        CassService(CpuEngine(), limits, executor, Admission(limits), self.metrics).add_to(
            self.gate
        )
        status = Health((SERVICE,))
        status.set(serving=True)
        health_pb2_grpc.add_HealthServicer_to_server(status, self.gate)

    def rejected(self) -> float:
        """Who was turned away."""
        return counted(self.metrics).get(("cass_rejections_total", "unauthenticated"), 0)


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.fixture
def channel(both: Both) -> Iterator[grpc.Channel]:
    with behind(both.gate, both.add) as found:
        yield found


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
def test_strangers_are_turned_away(channel: grpc.Channel, both: Both, method: str) -> None:
    """Before anything of theirs is read: the call ends though no message ever comes."""
    writer: Writer[bytes] = Writer()
    call = channel.stream_stream(f"/{SERVICE}/{method}")(iter(writer), timeout=LIMIT)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    writer.close()
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "a valid token is needed: authorization: Bearer TOKEN"
    assert both.rejected() == 1


ASKING = ("cass-timings", "1")


def test_strangers_are_turned_away_whatever_they_ask(channel: grpc.Channel, both: Both) -> None:
    stub = cass_pb2_grpc.CassServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(mask_request(), timeout=LIMIT, metadata=(ASKING,))
    assert caught.value.code() is UNAUTHENTICATED
    assert both.rejected() == 1


def test_methods_without_timings_may_be_asked_for_them(channel: grpc.Channel) -> None:
    stub = cass_pb2_grpc.CassServiceStub(channel)
    options = {"timeout": LIMIT, "metadata": (*FRIEND, ASKING)}
    assert stub.GetServerInfo(pb.GetServerInfoRequest(), **options).device == "cpu"
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(stub.StreamMasks(iter(entries), **options))) == 1
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/NoMethod")(b"", **options)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_strangers_are_not_told_what_there_is(channel: grpc.Channel, both: Both) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/NoMethod")(b"", timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED
    assert both.rejected() == 1


def test_open_services_ask_nobody(channel: grpc.Channel, both: Both) -> None:
    for service in ("", SERVICE):
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=LIMIT
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert both.caller.asked == 0
    assert both.rejected() == 0


def test_a_name_that_begins_like_an_open_one_is_not_open(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.HealthCheck/Check")(b"", timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED


def test_every_call_is_asked_about_anew(channel: grpc.Channel, both: Both) -> None:
    """A connection that has let one call in lets in no other for that."""
    stub = cass_pb2_grpc.CassServiceStub(channel)
    assert stub.GenerateMask(mask_request(), timeout=LIMIT, metadata=FRIEND).masks
    with pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(mask_request(), timeout=LIMIT)
    assert caught.value.code() is UNAUTHENTICATED
    entries = [pb.StreamMasksRequest(request=mask_request())]
    assert len(list(stub.StreamMasks(iter(entries), timeout=LIMIT, metadata=FRIEND))) == 1
    assert both.caller.asked == 3


def test_without_a_caller_everybody_is_let_in() -> None:
    gate = Gate(None, Metrics(), ())

    def add(_: Executor) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(Health(()), gate)

    with behind(gate, add) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=LIMIT
        )
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
