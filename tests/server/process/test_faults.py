"""Clients, connections and disks that fail: nobody else notices."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

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
from tests.server.support.processes import LIMIT, free_port, health, held, wait_until
from tests.server.support.raw_http2 import (
    Connection,
    call,
    data_frames,
    opening,
    prefixed,
)
from tests.support.servers import ServerProcess, serving

CONNECTIONS = 1000
FLOOD = 2048
MIB = 1 << 20

# Eight masks of 1024 x 1024 bytes.
LARGE = numbered_request(0, images=8, side=1024)
LARGE_BYTES = 8 * MIB


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    """Enough file descriptors for `CONNECTIONS`, here and in processes started from here."""
    needed = 2 * CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and hard < needed:
        pytest.skip(f"this user may open no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(many_files: None) -> Iterator[ServerProcess]:
    """A server that outlives everything that is done to it."""
    limits = {
        "--max-in-flight": "1000",
        "--max-queue-bytes": str(8 * LARGE_BYTES),
        "--max-message-bytes": "1MiB",
    }
    options = [word for pair in limits.items() for word in pair]
    with serving("--metrics-port", "0", *options) as started:
        yield started
        assert started.stop() == 0
    assert complaints(started) == []


CLIENT = """
import sys, time
from tests.server.support.load import connect, numbered_request
from cass.v1 import cass_pb2 as pb, cass_pb2_grpc

stub = cass_pb2_grpc.CassServiceStub(connect(sys.argv[1]))
calls = [stub.GenerateMask.future(numbered_request(n)) for n in range(3)]
calls.append(stub.StreamMasks(iter([pb.StreamMasksRequest(request=numbered_request(3))])))
time.sleep(600)
"""


def test_a_client_killed_while_its_requests_are_computed(tmp_path: Path) -> None:
    for name in ("warm", "checks"):
        (tmp_path / name).touch()
    with serving("--metrics-port", "0", program=held(tmp_path)) as server:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.address],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            wait_until(lambda: in_flight(server) == 4, server)
        finally:
            client.kill()
            client.wait(LIMIT)
        wait_until(lambda: in_flight(server) == 0, server)
        (tmp_path / "go").touch()
        with load(server.address, callers=2) as callers:
            wait_until(more_answers(callers), server)
        assert server.stop() == 0
    assert complaints(server) == []


@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
def test_a_client_that_vanishes_in_the_middle_of_a_message(
    server: ServerProcess, method: str
) -> None:
    """No request of theirs is ever computed; single calls count as given up."""
    message = prefixed(bytes(100_000))
    before = scrape(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Connection(server.address)) for _ in range(8)]
        for client in clients:
            client.send(opening(), call(method), data_frames(message[:50_000], end=False))
            client.wait_read()
        for client in clients:
            client.vanish()

    def more(name: str, **labels: str) -> float:
        return value(scrape(server), name, **labels) - value(before, name, **labels)

    if method == "GenerateMask":  # a stream's request counts from when it is there
        total = partial(more, "cass_requests_total", method=method, code="CANCELLED")
        wait_until(lambda: total() == 8, server)
    assert in_flight(server) == 0
    assert more("cass_images_total") == 0
    with load(server.address, callers=2) as callers:
        wait_until(more_answers(callers), server)


def test_connections_that_say_nothing_or_stop_after_the_preface(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for sent in (b"", opening()[:10], opening()[:24], opening()):
            for _ in range(25):
                stack.enter_context(Connection(server.address)).send(sent)
        with load(server.address) as callers:
            wait_until(more_answers(callers), server)


def test_a_peer_that_no_longer_answers_pings_is_given_up() -> None:
    """As one whose machine lost its network: no end of the connection ever comes from there."""
    with serving(
        "--metrics-port", "0", "--keepalive-seconds", "0.5", "--keepalive-timeout-seconds", "0.5"
    ) as server:
        with (
            Connection(server.address) as idle,
            Connection(server.address) as half_sent,
            Connection(server.address) as stream,
            load(server.address, callers=2) as callers,
        ):
            idle.send(opening())
            half_sent.send(
                opening(), call("GenerateMask"), data_frames(prefixed(bytes(99))[:50], end=False)
            )
            stream.send(opening(), call("StreamMasks"))
            for client in (idle, half_sent, stream):
                while client.read() is not None:
                    pass
            wait_until(more_answers(callers), server)
        wait_until(lambda: in_flight(server) == 0, server)
        assert server.stop() == 0
    assert complaints(server) == []


def test_who_does_not_read_holds_up_nobody(server: ServerProcess) -> None:
    """Answers wait at the server up to its limit of bytes; the reader's end gives these back."""
    asked = 100
    large = prefixed(LARGE.SerializeToString())
    entry = prefixed(pb.StreamMasksRequest(request=LARGE).SerializeToString())
    with connect(server.address) as channel:
        ask = cass_pb2_grpc.CassServiceStub(channel).GenerateMask
        before = resident_bytes(server)
        with Connection(server.address) as unary, Connection(server.address) as stream:
            unary.send(opening(window=0))
            # More than there is room for: what asks below may take the place of some.
            for index in range(16):
                unary.send(call("GenerateMask", 2 * index + 1), data_frames(large, 2 * index + 1))
            stream.send(opening(window=0), call("StreamMasks"))
            stream.send(data_frames(asked * entry, end=False))
            wait_until(lambda: is_full(ask), server)
            with load(server.address) as callers:
                wait_until(more_answers(callers, 100), server)
            assert is_full(ask)
            # Its limit is 64 MiB; what was asked for is 864.
            assert resident_bytes(server) - before < 192 * MIB
        wait_until(lambda: not is_full(ask), server)


def is_full(ask: Any) -> bool:
    """Whether there is no room for the bytes of a large answer."""
    asked = ask.future(LARGE, timeout=LIMIT)
    if asked.code() is grpc.StatusCode.OK:
        return False
    assert asked.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes in flight" in asked.details()
    return True


def resident_bytes(server: ServerProcess) -> int:
    """Memory of the process that is in RAM."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.slow
def test_a_thousand_connections_that_ask_at_once(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Connection(server.address)) for _ in range(CONNECTIONS)]
        for number, client in enumerate(clients):
            message = numbered_request(number).SerializeToString()
            client.send(opening(), call("GenerateMask"), data_frames(prefixed(message)))
        for number, client in enumerate(clients):
            assert is_answer(pb.GenerateMaskResponse.FromString(client.answer()), number)
    wait_until(lambda: in_flight(server) == 0, server)


@pytest.mark.slow
def test_a_flood_is_dropped_before_it_piles_up() -> None:
    """More calls than wait inside gRPC for a server with room for two, which was away a moment."""
    options = ("--max-in-flight", "2", "--max-streams-per-connection", "64")
    with serving(*options) as server, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connect(server.address)) for _ in range(FLOOD // 64)]
        stubs = [cass_pb2_grpc.CassServiceStub(channel) for channel in channels]
        for stub in stubs:
            stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        server.process.send_signal(signal.SIGSTOP)
        calls = [
            (number, stub.GenerateMask.future(numbered_request(number), timeout=LIMIT))
            for stub in stubs
            for number in range(64)
        ]
        server.process.send_signal(signal.SIGCONT)
        ends = Counter(made.code() for _, made in calls)
        assert set(ends) == {
            grpc.StatusCode.OK,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
        }
        for number, made in calls:
            if made.code() is grpc.StatusCode.OK:
                assert is_answer(made.result(), number)
        # It is as good as new for whoever comes after.
        assert is_answer(stubs[0].GenerateMask(numbered_request(7), timeout=LIMIT), 7)
        assert server.stop() == 0


def test_a_message_over_the_limit_ends_its_call_alone(server: ServerProcess) -> None:
    too_large = numbered_request(0)
    too_large.boxes.xyxy = bytes(MIB)
    with connect(server.address) as channel:
        stream = Stream(channel)
        for number in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                cass_pb2_grpc.CassServiceStub(channel).GenerateMask(too_large, timeout=LIMIT)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max (" in caught.value.details()
            # On the same connection, which would have taken it along.
            stream.ask(number)
            assert stream.answers(number)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_for_the_log(workers: str) -> None:
    port = free_port()
    arguments = ["serve", "--port", str(port), "--device", "cpu", "--workers", workers]
    with open("/dev/full", "w") as full:
        server = subprocess.Popen(
            [sys.executable, "-m", "cass_server", *arguments], stderr=full, stdout=full
        )
    try:
        assert health(f"127.0.0.1:{port}") in ("NOT_SERVING", "SERVING")
        with connect(f"127.0.0.1:{port}") as channel:
            ask = cass_pb2_grpc.CassServiceStub(channel).GenerateMask
            assert is_answer(ask(numbered_request(3), timeout=LIMIT), 3)
            bad = numbered_request(3)
            bad.mask_spec.patch_size = 0
            with pytest.raises(grpc.RpcError, match=r"mask_spec\.patch_size"):
                ask(bad, timeout=LIMIT)  # which is logged
        server.terminate()
        assert server.wait(LIMIT) == 0
    finally:
        server.kill()
        server.wait(LIMIT)
