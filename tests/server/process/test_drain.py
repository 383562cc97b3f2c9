"""SIGTERM under load: what was accepted is answered, and nothing holds the server up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.load import (
    Stream,
    connect,
    is_answer,
    load,
    more_answers,
    numbered_request,
)
from tests.server.support.observed import complaints, in_flight, scrape, value
from tests.server.support.processes import LIMIT, held, status_name, wait_until
from tests.server.support.raw_http2 import Connection, call, data_frames, more, opening, prefixed
from tests.support.servers import ServerProcess, serving

GIVEN_UP_SECONDS = 20.0
"""For a peer that does not confirm that its connection ends; so long gRPC waits for it."""

WAITED_SECONDS = 2.5
"""More than a server takes that waits for nobody."""

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


def assert_waits(server: ServerProcess) -> None:
    """It goes on, for longer than it would if it waited for nobody."""
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(WAITED_SECONDS)


@pytest.mark.parametrize(("images", "side"), [(1, 16), (8, 1024)])
def test_sigterm_waits_for_a_slow_reader(images: int, side: int) -> None:
    """Whose answer, of 256 bytes or 8 MiB, is computed and cannot be sent yet."""
    request = numbered_request(7, images, side).SerializeToString()
    with (
        serving("--drain-seconds", "600", "--metrics-port", "0") as server,
        Connection(server.address) as reader,
    ):
        reader.send(opening(window=0), call("GenerateMask"), data_frames(prefixed(request)))
        wait_until(lambda: value(scrape(server), "cass_images_total") == images, server)
        server.process.send_signal(signal.SIGTERM)
        assert_waits(server)
        reader.send(more(1 << 30, 0), more(1 << 30, 1))
        answer = pb.GenerateMaskResponse.FromString(reader.answer())
        assert is_answer(answer, 7, images, side)
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


def test_sigterm_waits_for_a_stream_that_is_answered(tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    program = held(tmp_path)
    with (
        serving("--drain-seconds", "600", "--metrics-port", "0", program=program) as server,
        connect(server.address) as channel,
    ):
        stream = Stream(channel)
        stream.ask(7)
        wait_until(lambda: in_flight(server) == 1, server)
        server.process.send_signal(signal.SIGTERM)
        assert_waits(server)
        (tmp_path / "go").touch()
        assert stream.answers(7)
        assert stream.end() == STOPPING
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


CLIENT = """
import queue, sys, time
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.support.load import connect, numbered_request
from cass.v1 import cass_pb2 as pb, cass_pb2_grpc

kept = []
for busy in (False, True):
    channel = connect(sys.argv[1])
    stub = cass_pb2_grpc.CassServiceStub(channel)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    next(watch)
    kept += [channel, watch]
    for number in range(8):
        asked = queue.Queue()
        stream = stub.StreamMasks(iter(asked.get, None))
        asked.put(pb.StreamMasksRequest(request=numbered_request(number)))
        next(stream)
        kept += [asked, stream]
        if busy:  # and nobody reads the answers
            large = numbered_request(number, images=8, side=512)
            for _ in range(50):
                asked.put(pb.StreamMasksRequest(request=large))
            kept.append(stub.GenerateMask.future(large))
print("connected", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_peers_that_were_killed_hold_up_nothing(workers: str) -> None:
    """With streams open, idle and busy, and watches, just before the signal."""
    with serving("--drain-seconds", "600", "--workers", workers) as server:
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.address],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == b"connected\n"
            finally:
                client.kill()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(GIVEN_UP_SECONDS * 3 / 4) == 0
    assert complaints(server) == []
