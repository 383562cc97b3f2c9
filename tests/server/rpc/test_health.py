"""The health service: what probes and watchers are told, and when their streams end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_server.config.limits import Limits
from tests.server.support.in_thread import Running, connected, running
from tests.server.support.processes import LIMIT, status_name, wait_until
from tests.server.support.raw_http2 import (
    RST_STREAM,
    Connection,
    data_frames,
    frames,
    opening,
    prefixed,
)
from tests.server.support.raw_http2 import call as call_frame

OURS = "cass.v1.CassService"
NAMES = ("", OURS)


class Asker:
    """Asks a server's health service.

    Attributes:
        status: what the server sets.
    """

    def __init__(self, server: Running, channel: grpc.Channel) -> None:
        """Of one connection."""
        self.address, self.channel = server.address, channel
        self.status = server.health
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    def check(self, service: str = "") -> str:
        """The status now."""
        request = health_pb2.HealthCheckRequest(service=service)
        return status_name(self._stub.Check(request, timeout=LIMIT))

    def watch(self, service: str = "") -> Any:
        """The stream of statuses."""
        return self._stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT)


@pytest.fixture
def asker() -> Iterator[Asker]:
    with running() as server, connected(server.address) as channel:
        yield Asker(server, channel)


@pytest.mark.parametrize("name", NAMES)
def test_probes_are_told_the_status(asker: Asker, name: str) -> None:
    seen = [asker.check(name)]
    for serving in (True, False, True):
        asker.status.set(serving)
        seen.append(asker.check(name))
    asker.status.end()
    seen.append(asker.check(name))
    # What has ended does not begin anew.
    asker.status.set(True)
    seen.append(asker.check(name))
    up, down = "SERVING", "NOT_SERVING"
    assert seen == [down, up, down, up, down, down]


def test_probes_for_other_services_find_none(asker: Asker) -> None:
    for name in ("cass.v1.NoService", "cass", OURS.lower()):
        with pytest.raises(grpc.RpcError) as caught:
            asker.check(name)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", NAMES)
def test_watchers_are_told_of_changes_and_the_end(asker: Asker, name: str) -> None:
    """Of each change once, and of what is none never."""
    watch = asker.watch(name)
    assert status_name(next(watch)) == "NOT_SERVING"
    asker.status.set(True)
    assert status_name(next(watch)) == "SERVING"
    asker.status.set(True)
    asker.status.end()
    assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]
    assert watch.code() is grpc.StatusCode.OK


def test_a_watcher_of_a_server_that_ends_before_it_serves(asker: Asker) -> None:
    watch = asker.watch()
    assert status_name(next(watch)) == "NOT_SERVING"
    asker.status.end()
    assert list(watch) == []


def test_a_watcher_that_comes_after_the_end(asker: Asker) -> None:
    asker.status.end()
    assert [status_name(answer) for answer in asker.watch()] == ["NOT_SERVING"]


def test_a_watcher_of_another_service_waits_for_it(asker: Asker) -> None:
    """As the protocol has it: it might come; only the end of the server ends that."""
    watch = asker.watch("cass.v1.NoService")
    assert status_name(next(watch)) == "SERVICE_UNKNOWN"
    asker.status.set(True)
    asker.status.end()
    assert list(watch) == []


def test_many_watchers_are_all_told(asker: Asker) -> None:
    watches = [asker.watch(NAMES[i % 2]) for i in range(40)]
    assert {status_name(next(watch)) for watch in watches} == {"NOT_SERVING"}
    asker.status.set(True)
    assert {status_name(next(watch)) for watch in watches} == {"SERVING"}
    for watch in watches[::2]:
        watch.cancel()
    asker.status.end()
    for watch in watches[1::2]:
        assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]


def test_a_watcher_is_told_the_latest(asker: Asker) -> None:
    """Changes that come and go meanwhile are not kept for it."""
    watch = asker.watch()
    assert status_name(next(watch)) == "NOT_SERVING"
    for _ in range(500):
        asker.status.set(True)
        asker.status.set(False)
    asker.status.set(True)
    asker.status.end()
    told = [status_name(answer) for answer in watch]
    assert len(told) < 1000
    assert told[-1:] == ["NOT_SERVING"] or told == []
    assert all(told[i] != told[i + 1] for i in range(len(told) - 1))


def open_raw(client: Connection, method: str, streams: range, message: bytes | None = b"") -> None:
    """Begin calls of the health service, with one message or without any."""
    for stream in streams:
        client.send(call_frame(method, stream, service="grpc.health.v1.Health"))
        if message is not None:
            client.send(data_frames(prefixed(message), stream))


def test_watchers_that_do_not_read_hold_up_no_probe(asker: Asker) -> None:
    """Their windows take nothing, and they are more than there are threads for either."""
    with Connection(asker.address) as client:
        client.send(opening(window=0))
        open_raw(client, "Watch", range(1, 401, 2))
        for _ in range(20):
            assert asker.check() == "NOT_SERVING"
        asker.status.set(True)
        assert asker.check() == "SERVING"


def test_watchers_that_do_not_read_are_sent_away() -> None:
    """So that the others, of whom there are more than threads, are told in the end."""
    with (
        running(limits=Limits(receive_seconds=0.5)) as server,
        connected(server.address) as channel,
        Connection(server.address) as client,
    ):
        client.send(opening(window=0))
        open_raw(client, "Watch", range(1, 401, 2))
        reset = {got[2] for got in frames(client, RST_STREAM, 200)}
        assert reset == set(range(1, 401, 2))
        asker = Asker(server, channel)
        assert status_name(next(asker.watch())) == "NOT_SERVING"


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_callers_that_send_nothing_are_sent_away(method: str) -> None:
    """And hold up nobody meanwhile."""
    with (
        running(limits=Limits(receive_seconds=0.5)) as server,
        connected(server.address) as channel,
        Connection(server.address) as client,
    ):
        client.send(opening())
        open_raw(client, method, range(1, 33, 2), None)
        asker = Asker(server, channel)
        assert asker.check() == status_name(next(asker.watch())) == "NOT_SERVING"
        assert {got[2] for got in frames(client, RST_STREAM, 16)} == set(range(1, 33, 2))


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_what_is_no_request_is_refused(asker: Asker, method: str) -> None:
    call = asker.channel.stream_stream(f"/grpc.health.v1.Health/{method}")
    for messages in ([], [b"\xff"]):
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter(messages), timeout=LIMIT))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "request: is no HealthCheckRequest"


def test_a_watch_takes_no_thread() -> None:
    """While there is nothing to tell."""
    with running() as server, connected(server.address) as channel:
        asker = Asker(server, channel)
        watches = [asker.watch() for _ in range(100)]
        assert {status_name(next(watch)) for watch in watches} == {"NOT_SERVING"}
        wait_until(lambda: threads_busy() == 0)
        for watch in watches:
            watch.cancel()


def threads_busy() -> int:
    """Of those that tell watchers: who is anywhere but where a pool's threads are idle."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    tops = [
        frame.f_code.co_name
        for ident, frame in sys._current_frames().items()
        if names.get(ident, "").startswith("watchers")
    ]
    assert tops
    return sum(top != "_worker" for top in tops)
