"""The health service: what probes and watchers get, and when their streams end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_server.config.limits import Limits
from tests.server.support.details import fails
from tests.server.support.in_thread import Running, running
from tests.server.support.processes import LIMIT, status_name, wait_until
from tests.server.support.raw_http2 import (
    RST_STREAM,
    Connection,
    call,
    data_frames,
    frames,
    opening,
    prefixed,
)

OURS = "cass.v1.CassService"
NAMES = ("", OURS)
UP, DOWN = "SERVING", "NOT_SERVING"


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.fixture
def impatient() -> Iterator[Running]:
    """A server that waits for half a second for its callers."""
    with running(limits=Limits(receive_seconds=0.5)) as started:
        yield started


def check(server: Running, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return status_name(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT))


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Watch:
    """A stream of statuses."""

    def __init__(self, server: Running, service: str = "") -> None:
        stub = health_pb2_grpc.HealthStub(server.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        self.call: Any = stub.Watch(request, timeout=LIMIT)

    def next(self) -> str:
        return status_name(next(self.call))

    def rest(self) -> list[str]:
        return [status_name(answer) for answer in self.call]


@pytest.mark.parametrize("name", NAMES)
def test_probes_get_the_status(server: Running, name: str) -> None:
    """Which changes until the end, and not after it."""
    seen = [check(server, name)]
    for serving in (True, False, True):
        server.health.set(serving)
        seen.append(check(server, name))
    server.health.end()
    seen.append(check(server, name))
    server.health.set(True)
    seen.append(check(server, name))
    assert seen == [DOWN, UP, DOWN, UP, DOWN, DOWN]


def test_probes_for_other_services_find_none(server: Running) -> None:
    for name in ("cass.v1.NoService", "cass", OURS.lower()):
        with fails("NOT_FOUND"):
            check(server, name)


@pytest.mark.parametrize("name", NAMES)
def test_watchers_get_changes_and_the_end(server: Running, name: str) -> None:
    """Each change once, and what is none never."""
    watch = Watch(server, name)
    assert watch.next() == DOWN
    server.health.set(True)
    assert watch.next() == UP
    server.health.set(True)
    server.health.end()
    assert watch.rest() == [DOWN]
    assert watch.call.code() is grpc.StatusCode.OK
    assert Watch(server, name).rest() == [DOWN]


def test_watchers_of_what_does_not_change_get_the_end(server: Running) -> None:
    """An unknown service might come, as the protocol has it."""
    watch, other = Watch(server), Watch(server, "cass.v1.NoService")
    assert (watch.next(), other.next()) == (DOWN, "SERVICE_UNKNOWN")
    server.health.end()
    assert (watch.rest(), other.rest()) == ([], [])


def test_many_watchers_all_get_changes(server: Running) -> None:
    watches = [Watch(server, NAMES[i % 2]) for i in range(40)]
    assert {watch.next() for watch in watches} == {DOWN}
    server.health.set(True)
    assert {watch.next() for watch in watches} == {UP}
    for watch in watches[::2]:
        watch.call.cancel()
    server.health.end()
    assert [watch.rest() for watch in watches[1::2]] == [[DOWN]] * 20


def test_a_watcher_gets_the_latest(server: Running) -> None:
    """Changes that come and go meanwhile are not kept for it."""
    watch = Watch(server)
    assert watch.next() == DOWN
    for _ in range(500):
        server.health.set(True)
        server.health.set(False)
    server.health.set(True)
    server.health.end()
    seen = watch.rest()
    assert len(seen) < 1000
    assert seen[-1:] == [DOWN] or seen == []
    assert all(seen[i] != seen[i + 1] for i in range(len(seen) - 1))


def begin(client: Connection, method: str, streams: range, messages: bytes) -> None:
    """Begin calls of the health service with what their messages are on the wire."""
    for stream in streams:
        client.send(call(method, stream, service="grpc.health.v1.Health"))
        client.send(data_frames(messages, stream, end=bool(messages)))


def test_watchers_that_do_not_read_hold_up_no_probe(server: Running) -> None:
    """Their windows take nothing, and they are more than there are threads for either."""
    with Connection(server.address) as client:
        client.send(opening(window=0))
        begin(client, "Watch", range(1, 401, 2), prefixed(b""))
        for _ in range(20):
            assert check(server) == DOWN
        server.health.set(True)
        assert check(server) == UP


def test_watchers_that_do_not_read_are_sent_away(impatient: Running) -> None:
    """So that the others, of whom there are more than threads, get theirs in the end."""
    with Connection(impatient.address) as client:
        client.send(opening(window=0))
        begin(client, "Watch", range(1, 401, 2), prefixed(b""))
        reset = {got[2] for got in frames(client, RST_STREAM, 200)}
        assert reset == set(range(1, 401, 2))
        assert Watch(impatient).next() == DOWN


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_callers_that_send_nothing_are_sent_away(impatient: Running, method: str) -> None:
    """And hold up nobody meanwhile."""
    with Connection(impatient.address) as client:
        client.send(opening())
        begin(client, method, range(1, 33, 2), b"")
        assert check(impatient) == Watch(impatient).next() == DOWN
        assert {got[2] for got in frames(client, RST_STREAM, 16)} == set(range(1, 33, 2))


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_what_is_no_request_is_refused(server: Running, method: str) -> None:
    call = server.channel.stream_stream(f"/grpc.health.v1.Health/{method}")
    for messages in ([], [b"\xff"]):
        with fails("INVALID_ARGUMENT", "request: is no HealthCheckRequest"):
            list(call(iter(messages), timeout=LIMIT))


def test_a_watch_takes_no_thread(server: Running) -> None:
    """While its status does not change."""
    watches = [Watch(server) for _ in range(100)]
    assert {watch.next() for watch in watches} == {DOWN}
    wait_until(lambda: threads_busy() == 0)


def threads_busy() -> int:
    """Threads for watchers that are not where idle threads of a pool wait."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    callers = [
        frame.f_back and frame.f_back.f_code.co_name  # of the condition's `wait`
        for ident, frame in sys._current_frames().items()
        if names.get(ident, "").startswith("watchers")
    ]
    assert callers
    return sum(caller != "_next" for caller in callers)


def test_watchers_are_told_although_no_thread_starts(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the threads that there are; who changes the status hears nothing of it."""
    watches = [Watch(server) for _ in range(3)]
    assert [watch.next() for watch in watches] == [DOWN] * 3
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        server.health.set(serving=True)
        assert [watch.next() for watch in watches] == [UP] * 3
        server.health.end()
    for watch in watches:
        assert watch.next() == DOWN
        with pytest.raises(StopIteration):
            watch.next()


def test_a_watcher_that_cannot_be_told_keeps_no_other_from_it(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the status from its change."""
    watches = [Watch(server) for _ in range(2)]
    assert [watch.next() for watch in watches] == [DOWN] * 2
    submit, failed = server.health._telling.submit, []

    def fail_once(*args: Any) -> Any:
        if not failed:
            failed.append(args)
            raise MemoryError
        return submit(*args)

    monkeypatch.setattr(server.health._telling, "submit", fail_once)
    server.health.set(serving=True)
    assert server.health_check() == UP
    told: list[list[str]] = [[], []]

    def read(watch: Watch, answers: list[str]) -> None:
        answers.extend(status_name(answer) for answer in watch.call)

    readers = [
        threading.Thread(target=read, args=both, daemon=True)
        for both in zip(watches, told, strict=True)
    ]
    for reader in readers:
        reader.start()
    wait_until(lambda: [UP] in told)
    server.health.end()
    for reader in readers:
        reader.join(LIMIT)
    assert sorted(told) == [[], [UP, DOWN]]
