"""Clients, connections and disks that fail: nobody else notices."""

from __future__ import annotations

import contextlib
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
from tests.server.support.details import fails
from tests.server.support.load import (
    Stream,
    connect,
    is_answer,
    load,
    more_answers,
    numbered_request,
    service_of,
)
from tests.server.support.observed import complaints, in_flight, scrape, value
from tests.server.support.processes import LIMIT, free_port, health, held, wait_until
from tests.server.support.raw_http2 import (
    Connection,
    call,
    data_frames,
    opening,
    prefixed,
    request,
)
from tests.server.support.requests import mask_request
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
    options = ("--max-in-flight", "1000", "--max-message-bytes", "1MiB")
    bytes_ = ("--max-queue-bytes", str(8 * LARGE_BYTES))
    with serving("--metrics-port", "0", *options, *bytes_) as started:
        yield started
        assert started.stop() == 0
    assert complaints(started) == []


def test_a_client_killed_while_its_requests_are_computed(tmp_path: Path) -> None:
    program = held(tmp_path, "warm", "checks")
    entry = prefixed(pb.StreamMasksRequest(request=numbered_request(3)).SerializeToString())
    with serving("--metrics-port", "0", program=program) as server:
        client = Connection(server.address)
        client.send(opening(), call("StreamMasks"), data_frames(entry, end=False))
        client.send(*[request("GenerateMask", numbered_request(3), n) for n in (3, 5, 7)])
        wait_until(lambda: in_flight(server) == 4, server)
        client.vanish()
        wait_until(lambda: in_flight(server) == 0, server)
        (tmp_path / "go").touch()
        assert_serves_others(server)
        assert server.stop() == 0
    assert complaints(server) == []


def assert_serves_others(server: ServerProcess, answers: int = 20) -> None:
    with load(server.address, callers=2) as callers:
        wait_until(more_answers(callers, answers), server)


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
    assert_serves_others(server)


def test_connections_that_say_nothing_or_stop_after_the_preface(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for sent in (b"", opening()[:10], opening()[:24], opening()):
            for _ in range(25):
                stack.enter_context(Connection(server.address)).send(sent)
        assert_serves_others(server)


def test_a_peer_that_no_longer_answers_pings_is_given_up() -> None:
    """As one whose machine lost its network: no end of the connection ever comes from there."""
    with serving(
        "--metrics-port", "0", "--keepalive-seconds", "0.5", "--keepalive-timeout-seconds", "3"
    ) as server:
        with (
            Connection(server.address) as idle,
            Connection(server.address) as half_sent,
            Connection(server.address) as stream,
        ):
            idle.send(opening())
            half_sent.send(
                opening(), call("GenerateMask"), data_frames(prefixed(bytes(99))[:50], end=False)
            )
            stream.send(opening(), call("StreamMasks"))
            for client in (idle, half_sent, stream):
                while client.read() is not None:
                    pass
            assert_serves_others(server)
        wait_until(lambda: in_flight(server) == 0, server)
        assert server.stop() == 0
    assert complaints(server) == []


def test_callers_that_do_not_read_hold_up_no_others(server: ServerProcess) -> None:
    """Answers wait at the server up to its limit of bytes; the reader's end gives these back."""
    entry = prefixed(pb.StreamMasksRequest(request=LARGE).SerializeToString())
    with service_of(server.address) as stub:
        before = resident_bytes(server)
        with (
            Connection(server.address) as unary,
            Connection(server.address) as another,
            Connection(server.address) as stream,
        ):
            # More than there is room for, of which each connection has a share: requests below may
            # take the place of some.
            for connection in (unary, another):
                connection.send(opening(window=0))
                numbers = range(1, 32, 2)
                connection.send(*[request("GenerateMask", LARGE, number) for number in numbers])
            stream.send(opening(window=0), call("StreamMasks"))
            stream.send(data_frames(100 * entry, end=False))
            wait_until(lambda: is_full(stub.GenerateMask), server)
            assert_serves_others(server, answers=100)
            assert is_full(stub.GenerateMask)
            # Its limit is 64 MiB; what was asked for is 1,056.
            assert resident_bytes(server) - before < 192 * MIB
        wait_until(lambda: not is_full(stub.GenerateMask), server)


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
            client.send(opening(), request("GenerateMask", numbered_request(number)))
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
        server.pause()
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
        # It answers as before.
        assert is_answer(stubs[0].GenerateMask(numbered_request(7), timeout=LIMIT), 7)
        assert server.stop() == 0


def test_a_message_over_the_limit_ends_its_call_alone(server: ServerProcess) -> None:
    """One that has just as many bytes is answered."""
    message = mask_request(boxes=65_000).SerializeToString()
    # And an unknown field (number 100) that fills it up.
    size = MIB - len(message) - 5
    message += b"\xa2\x06" + bytes([size & 0x7F | 0x80, size >> 7 | 0x80, 0]) + bytes(size)
    with connect(server.address) as channel:
        stream = Stream(channel)
        call = channel.unary_unary("/cass.v1.CassService/GenerateMask")
        for number in range(3):
            with fails("RESOURCE_EXHAUSTED") as caught:
                call(message + b"\0", timeout=LIMIT)
            assert "larger than max (" in caught.value.details()
            # On the same connection, which would have taken it along.
            assert stream.is_right(number)
        assert call(message, timeout=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_for_the_log(workers: str) -> None:
    port = free_port()
    arguments = ["serve", "--port", str(port), "--device", "cpu", "--workers", workers]
    command = [sys.executable, "-m", "cass_server", *arguments]
    bad = numbered_request(3)
    bad.mask_spec.patch_size = 0
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(command, stderr=full, stdout=full) as server,
    ):
        try:
            assert health(f"127.0.0.1:{port}") in ("NOT_SERVING", "SERVING")
            with service_of(f"127.0.0.1:{port}") as stub:
                assert is_answer(stub.GenerateMask(numbered_request(3), timeout=LIMIT), 3)
                with fails("INVALID_ARGUMENT"):
                    stub.GenerateMask(bad, timeout=LIMIT)  # which is logged
            server.terminate()
            assert server.wait(LIMIT) == 0
        finally:
            server.kill()
