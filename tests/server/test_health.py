"""The health service: what probes and watchers are told, and when their streams end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_server.gate import Gate
from cass_server.health import Health
from cass_server.metrics import Metrics
from tests.server.calls import LIMIT
from tests.server.in_thread import behind
from tests.server.processes import status_name

OURS = "cass.v1.CassService"
NAMES = ("", OURS)


class Running:
    """The service in a server of its own."""

    def __init__(self) -> None:
        """Not serving yet."""
        self.gate = Gate(None, Metrics(), ())
        self.status = Health((OURS,))
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stub: Any = None

    def add(self, _: Executor) -> None:
        """Put it behind the gate."""
        self._loop = asyncio.get_running_loop()
        health_pb2_grpc.add_HealthServicer_to_server(self.status, self.gate)

    def on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call it there, as the server does."""
        assert self._loop is not None

        async def call() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=LIMIT)

    def check(self, service: str = "") -> str:
        """The status now."""
        request = health_pb2.HealthCheckRequest(service=service)
        return status_name(self.stub.Check(request, timeout=LIMIT))

    def watch(self, service: str = "") -> Any:
        """The stream of statuses."""
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT)


@pytest.fixture
def running() -> Iterator[Running]:
    server = Running()
    with behind(server.gate, server.add) as channel:
        server.stub = health_pb2_grpc.HealthStub(channel)
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_probes_are_told_the_status(running: Running, name: str) -> None:
    seen = [running.check(name)]
    for serving in (True, False, True):
        running.on_loop(running.status.set, serving)
        seen.append(running.check(name))
    running.on_loop(running.status.end)
    seen.append(running.check(name))
    # What has ended does not begin anew.
    running.on_loop(running.status.set, True)
    seen.append(running.check(name))
    up, down = "SERVING", "NOT_SERVING"
    assert seen == [down, up, down, up, down, down]


def test_probes_for_other_services_find_none(running: Running) -> None:
    for name in ("cass.v1.NoService", "cass", OURS.lower()):
        with pytest.raises(grpc.RpcError) as caught:
            running.check(name)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", NAMES)
def test_watchers_are_told_of_changes_and_the_end(running: Running, name: str) -> None:
    """Of each change once, and of what is none never."""
    watch = running.watch(name)
    assert status_name(next(watch)) == "NOT_SERVING"
    running.on_loop(running.status.set, True)
    assert status_name(next(watch)) == "SERVING"
    running.on_loop(running.status.set, True)
    running.on_loop(running.status.end)
    assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]
    assert watch.code() is grpc.StatusCode.OK


def test_a_watcher_of_a_server_that_ends_before_it_serves(running: Running) -> None:
    watch = running.watch()
    assert status_name(next(watch)) == "NOT_SERVING"
    running.on_loop(running.status.end)
    assert list(watch) == []


def test_a_watcher_that_comes_after_the_end(running: Running) -> None:
    running.on_loop(running.status.end)
    assert [status_name(answer) for answer in running.watch()] == ["NOT_SERVING"]


def test_a_watcher_of_another_service_waits_for_it(running: Running) -> None:
    """As the protocol has it: it might come; only the end of the server ends that."""
    watch = running.watch("cass.v1.NoService")
    assert status_name(next(watch)) == "SERVICE_UNKNOWN"
    running.on_loop(running.status.set, True)
    running.on_loop(running.status.end)
    assert list(watch) == []


def test_many_watchers_are_all_told(running: Running) -> None:
    watches = [running.watch(NAMES[i % 2]) for i in range(40)]
    assert {status_name(next(watch)) for watch in watches} == {"NOT_SERVING"}
    running.on_loop(running.status.set, True)
    assert {status_name(next(watch)) for watch in watches} == {"SERVING"}
    for watch in watches[::2]:
        watch.cancel()
    running.on_loop(running.status.end)
    for watch in watches[1::2]:
        assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]


def test_a_watcher_that_is_slow_is_told_the_latest(running: Running) -> None:
    """Changes that come and go meanwhile are not kept for it."""
    watch = running.watch()
    assert status_name(next(watch)) == "NOT_SERVING"

    def flicker() -> None:
        for _ in range(500):
            running.status.set(True)
            running.status.set(False)
        running.status.set(True)

    running.on_loop(flicker)
    assert status_name(next(watch)) == "SERVING"
    running.on_loop(running.status.end)
    assert [status_name(answer) for answer in watch] == ["NOT_SERVING"]


def test_a_watcher_that_does_not_read_holds_up_nobody() -> None:
    """The write to it waits; what changes the status does not, nor the other watchers."""
    status = Health(())
    told: list[str] = []

    class Stuck:
        """A call whose client does not read; small as statuses are, no socket fills with them."""

        async def write(self, _: Any) -> None:
            await asyncio.Event().wait()

    class Reading:
        """One whose client does."""

        async def write(self, answer: Any) -> None:
            told.append(status_name(answer))

    async def watch_both() -> None:
        request = health_pb2.HealthCheckRequest()
        stuck = asyncio.ensure_future(status.Watch(request, Stuck()))  # type: ignore[arg-type]
        reading = asyncio.ensure_future(status.Watch(request, Reading()))  # type: ignore[arg-type]
        for serving in (True, False):
            while len(told) < 2 - serving:
                await asyncio.sleep(0)
            status.set(serving)
        status.end()
        await asyncio.wait_for(reading, LIMIT)
        assert not stuck.done()
        stuck.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stuck

    asyncio.run(watch_both())
    assert told[:2] == ["NOT_SERVING", "SERVING"]
    assert told[-1] == "NOT_SERVING"
