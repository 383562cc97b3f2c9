"""SIGTERM under load: what was accepted is answered, and nothing holds the server up."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2_grpc
from tests.server.load import Stream, connect, is_answer, load, more_answers, numbered_request
from tests.server.observed import complaints, in_flight
from tests.server.processes import LIMIT, held, status_name, wait_until
from tests.server.raw_http2 import Connection, opening
from tests.servers import serving

GIVEN_UP_SECONDS = 20.0
"""For a peer that does not confirm that its connection ends; so long gRPC waits for it."""

STOPPING = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    """And nothing else: idle streams end, callers are sent away, what was written ahead is not."""
    (tmp_path / "warm").touch()
    program = held(tmp_path)
    with (
        serving("--drain-seconds", "600", "--metrics-port", "0", program=program) as server,
        connect(server.address) as channel,
        connect(server.address) as streams,
    ):
        ask = cass_pb2_grpc.CassServiceStub(channel).GenerateMask
        accepted = [ask.future(numbered_request(n), timeout=LIMIT) for n in range(4)]
        idle, busy = Stream(streams), Stream(streams)
        for number in (100, 101, 102):
            busy.ask(number)
        wait_until(lambda: in_flight(server) == 5, server)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=LIMIT
        )
        assert status_name(next(watch)) == "SERVING"

        server.process.send_signal(signal.SIGTERM)
        assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]
        assert idle.end() == STOPPING
        with pytest.raises(grpc.RpcError) as refused:
            ask(numbered_request(5), timeout=LIMIT)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert in_flight(server) == 5
        assert not any(call.done() for call in accepted)

        (tmp_path / "go").touch()
        for number, call in enumerate(accepted):
            assert is_answer(call.result(timeout=LIMIT), number)
        assert busy.answers(100)
        assert busy.end() == STOPPING
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


def test_sigterm_under_load() -> None:
    """Every caller has right answers, then one UNAVAILABLE, whatever else is connected."""
    with (
        serving("--drain-seconds", "600") as server,
        contextlib.ExitStack() as stack,
        load(server.address) as callers,
    ):
        for _ in range(8):
            stack.enter_context(Connection(server.address))
            stack.enter_context(Connection(server.address)).send(opening())
        stream = Stream(stack.enter_context(connect(server.address)))
        stream.ask(7)
        assert stream.answers(7)
        wait_until(more_answers(callers), server)
        server.process.send_signal(signal.SIGTERM)
        assert stream.end() == STOPPING
        assert server.process.wait(GIVEN_UP_SECONDS * 3 / 4) == 0
        for caller in callers:
            record = caller.join()
            assert record.wrong == []
            assert [error.code().name for error in record.errors] == ["UNAVAILABLE"]
    assert complaints(server) == []
