"""SIGTERM under load: what was accepted is answered, and nothing holds the server up."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.details import fails
from tests.server.support.load import (
    Stream,
    connect,
    is_answer,
    load,
    more_answers,
    numbered_request,
)
from tests.server.support.observed import complaints, in_flight, scrape, value, worker_pids
from tests.server.support.processes import LIMIT, held, status_name, wait_until
from tests.server.support.raw_http2 import (
    Connection,
    call,
    data_frames,
    more,
    opening,
    prefixed,
    request,
)
from tests.server.support.slow_link import slow_link
from tests.support.servers import ServerProcess, serving

GIVEN_UP_SECONDS = 20.0
"""For a peer that does not confirm that its connection ends; so long gRPC waits for it."""

WAITED_SECONDS = 2.5
"""More than a server takes that waits for nobody."""

STOPPING = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


def listens(address: str) -> bool:
    """Whether a new connection finds a server."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def assert_waits(server: ServerProcess) -> None:
    """It goes on, for longer than it would if it waited for nobody."""
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(WAITED_SECONDS)


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    """And nothing else: idle streams end, callers are sent away, what was written ahead is not."""
    program = held(tmp_path, "warm")
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
        with fails("UNAVAILABLE"):
            ask(numbered_request(5), timeout=LIMIT)
        wait_until(lambda: not listens(server.address), server)
        assert in_flight(server) == 5
        assert not any(call.done() for call in accepted)

        (tmp_path / "go").touch()
        for number, call in enumerate(accepted):
            assert is_answer(call.result(timeout=LIMIT), number)
        assert busy.answers(100)
        assert busy.end() == STOPPING
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (2, signal.SIGKILL)]
)
def test_a_signal_under_load(workers: int, number: signal.Signals) -> None:
    """Every caller has right answers, then one UNAVAILABLE, whatever else is connected.

    Workers whose supervisor was killed drain and end, too.
    """
    with (
        serving("--drain-seconds", "600", "--workers", str(workers)) as server,
        contextlib.ExitStack() as stack,
        load(server.address) as callers,
    ):
        ends = [os.pidfd_open(pid) for pid in worker_pids(server).values()]
        for end in ends:
            stack.callback(os.close, end)
        for _ in range(8):
            stack.enter_context(Connection(server.address))
            stack.enter_context(Connection(server.address)).send(opening())
        stream = Stream(stack.enter_context(connect(server.address)))
        assert stream.is_right(7)
        wait_until(more_answers(callers), server)
        server.process.send_signal(number)
        assert stream.end() == STOPPING
        expected = -number if number == signal.SIGKILL else 0
        assert server.process.wait(GIVEN_UP_SECONDS * 3 / 4) == expected
        for end in ends:
            assert select.select([end], (), (), GIVEN_UP_SECONDS * 3 / 4)[0]
        for caller in callers:
            record = caller.join()
            assert (record.wrong, record.codes) == ([], ["UNAVAILABLE"])
    assert complaints(server) == []


@pytest.mark.slow
@pytest.mark.parametrize(("images", "side"), [(1, 16), (8, 1024)])
def test_sigterm_waits_for_a_slow_reader(images: int, side: int) -> None:
    """Whose answer, of 256 bytes or 8 MiB, is computed and cannot be sent yet."""
    with (
        serving("--drain-seconds", "600", "--metrics-port", "0") as server,
        Connection(server.address) as reader,
    ):
        reader.send(opening(window=0), request("GenerateMask", numbered_request(7, images, side)))
        wait_until(lambda: value(scrape(server), "cass_images_total") == images, server)
        server.process.send_signal(signal.SIGTERM)
        assert_waits(server)
        reader.send(more(1 << 30, 0), more(1 << 30, 1))
        answer = pb.GenerateMaskResponse.FromString(reader.answer())
        assert is_answer(answer, 7, images, side)
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
@pytest.mark.parametrize(
    "signalled",
    ["while it is sent", "while it is computed"],
)
def test_an_answer_of_8_mib_arrives_over_a_slow_link(
    method: str, signalled: str, tmp_path: Path
) -> None:
    """With a real client, that says how much it has read: more than half is in buffers."""
    program, images, side = held(tmp_path, "warm"), 8, 1024
    with (
        serving("--drain-seconds", "600", program=program) as server,
        slow_link(server.address, 4e6) as link,
        connect(link.address) as channel,
    ):
        asked = numbered_request(7, images, side)
        stub, stream = cass_pb2_grpc.CassServiceStub(channel), Stream(channel)
        if method == "GenerateMask":
            call = stub.GenerateMask.future(asked, timeout=LIMIT)
        else:
            stream.write(pb.StreamMasksRequest(request=asked))
        wait_until((tmp_path / "waiting").exists, server)
        if signalled == "while it is sent":
            (tmp_path / "go").touch()
            wait_until(lambda: link.carried > 1_000_000, server)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(server.address), server)
        (tmp_path / "go").touch()
        if method == "GenerateMask":
            assert is_answer(call.result(timeout=LIMIT), 7, images, side)
        else:
            assert stream.answers(7, images, side)
        assert stream.end() == STOPPING
        assert server.process.wait(LIMIT) == 0
    assert complaints(server) == []


def test_sigterm_waits_for_a_stream_that_is_answered(tmp_path: Path) -> None:
    program = held(tmp_path, "warm")
    with (
        serving("--drain-seconds", "600", program=program) as server,
        connect(server.address) as channel,
    ):
        stream = Stream(channel)
        stream.ask(7)
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(signal.SIGTERM)
        assert_waits(server)
        (tmp_path / "go").touch()
        assert stream.answers(7)
        assert stream.end() == STOPPING
        assert server.process.wait(LIMIT) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_peers_that_were_killed_hold_up_nothing(workers: str) -> None:
    """With streams open, idle and busy, and watches, just before the signal."""
    entry = prefixed(pb.StreamMasksRequest(request=numbered_request(7)).SerializeToString())
    large = numbered_request(7, images=8, side=512)
    with serving("--drain-seconds", "600", "--workers", workers) as server:
        for window in (65535, 0):
            peer = Connection(server.address)
            peer.send(opening(window))
            for stream in range(1, 31, 6):
                peer.send(call("Watch", stream, service="grpc.health.v1.Health"))
                peer.send(data_frames(prefixed(b""), stream))
                peer.send(call("StreamMasks", stream + 2))
                peer.send(data_frames(50 * entry, stream + 2, end=False))
                peer.send(request("GenerateMask", large, stream + 4))
            peer.wait_read()
            peer.vanish()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(GIVEN_UP_SECONDS * 3 / 4) == 0
    assert complaints(server) == []
