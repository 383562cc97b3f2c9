"""Servers that are killed, stopped, full, late, restarted or moved, while clients call them."""

from __future__ import annotations

import contextlib
import queue
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_client import CassClient, FallbackWarning, Overloaded, Timeout, Unavailable
from cass_core import compute_loss
from tests.client.support.faults import (
    Hold,
    all_serving,
    ask,
    assert_right,
    by_async_stream,
    by_calls,
    by_stream,
    held_pair,
    loader_workers,
    start,
)
from tests.client.support.networks import BreakingProxy
from tests.server.support.observed import scrape, value
from tests.server.support.processes import LIMIT, lasting_ports, wait_until
from tests.support.servers import ServerProcess, serving

pytestmark = pytest.mark.timeout(120)

WORKERS = 4
BATCHES = 15
"""Of each worker."""


class Two:
    """A server that is well, and one that can be held, with room for one request."""

    def __init__(self, well: ServerProcess, ill: ServerProcess, hold: Hold) -> None:
        self.well = well.address
        self.ill = ill.address
        self.both = f"{well.address},{ill.address}"
        self.hold = hold
        self._ill = ill

    def refused(self) -> float:
        """Calls that the ill one had no room for."""
        return value(scrape(self._ill), "cass_rejections_total", reason="requests")

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The ill one does nothing at all."""
        self._ill.pause()
        try:
            yield
        finally:
            self._ill.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The ill one does not finish."""
        self.hold.hold()
        try:
            yield
        finally:
            self.hold.let_go()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    hold = Hold(tmp_path_factory.mktemp("held") / "ill")
    ill = start("--max-in-flight", "1", "--metrics-port", "0", program=hold.program)
    with all_serving(start(), ill) as (well, other):
        yield Two(well, other, hold)


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param((by_calls,) * WORKERS, id="calls"),
        pytest.param(
            (by_stream,) * 2 + (by_async_stream,) * 2, id="streams", marks=pytest.mark.slow
        ),
    ],
)
def test_kill_9_in_the_middle_of_an_epoch(ways: Any, tmp_path: Path) -> None:
    """Every batch comes once, with its masks, in the order in which its worker asked for it."""
    with held_pair(tmp_path) as (servers, holds):
        client = CassClient(",".join(s.address for s in servers), timeout=LIMIT)
        with loader_workers(client, ways, BATCHES) as batches:
            got = [taken(batches) for _ in range(BATCHES)]
            for hold in holds:
                hold.hold()
            while not any(hold.holds for hold in holds):
                with contextlib.suppress(queue.Empty):
                    got.append(taken(batches, seconds=0.02))
            killed = next(i for i, hold in enumerate(holds) if hold.holds)
            servers[killed].kill()
            holds[1 - killed].let_go()
            got += [taken(batches) for _ in range(WORKERS * BATCHES - len(got))]
    assert_right([masks for _, masks in got], [seed for seed, _ in got])
    for index in range(WORKERS):
        own = range(index * BATCHES, (index + 1) * BATCHES)
        assert [seed for seed, _ in got if seed in own] == list(own)


def taken(batches: Any, seconds: float = LIMIT) -> tuple[int, Any]:
    """The next seed with its masks."""
    seed, masks = batches.get(timeout=seconds)
    assert not isinstance(masks, str), masks
    return seed, masks


@pytest.mark.slow
def test_all_killed_and_one_started_again() -> None:
    (port,) = lasting_ports(1)
    with (
        all_serving(start("--port", port), start()) as servers,
        CassClient(",".join(s.address for s in servers), timeout=LIMIT) as plain,
        CassClient(plain.target, timeout=LIMIT, fallback="local") as safe,
        ThreadPoolExecutor(6) as pool,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        for client in (plain, safe):
            assert_right(list(by_calls(client, range(4))), range(4))
        for server in servers:
            server.kill()

        failures = [pool.submit(list, way(plain, range(4))) for way in (by_calls, by_stream)]
        assert_right(list(pool.map(lambda seed: ask(safe, seed), range(8))), range(8))
        for failure in failures:
            with pytest.raises(Unavailable, match=f"^{plain.target}: "):
                failure.result(LIMIT)
        assert_right(list(by_stream(safe, range(8))), range(8))
        assert_same_loss(safe)
        assert [warning.category for warning in caught] == [FallbackWarning]
        assert str(caught[0].message).startswith(f"{plain.target}: ")
        assert safe.local_answers == 17

        with serving("--port", port):
            wait_until(lambda: answers_remotely(safe))
            local = safe.local_answers
            for client in (plain, safe):
                assert_right(list(by_calls(client, range(4))), range(4))
                assert_right(list(by_stream(client, range(4))), range(4))
            assert_same_loss(safe)
            assert safe.local_answers == local
        assert len(caught) == 1


def answers_remotely(client: CassClient) -> bool:
    """Whether the next call is answered by a server."""
    before = client.local_answers
    assert_right([ask(client, 1)], [1])
    return client.local_answers == before


def assert_same_loss(client: CassClient) -> None:
    """Assert that loss and gradient, of some megabytes, are those of the core."""
    logits = np.random.default_rng(3).normal(size=(2, 700, 900)).astype(np.float32)
    target = np.random.default_rng(4).random(size=(2, 700, 900)).astype(np.float32)
    remote = client.compute_loss(logits, target, return_grad=True)
    local = compute_loss(logits, target, return_grad=True)
    np.testing.assert_array_equal(remote.loss, local.loss)
    np.testing.assert_array_equal(remote.grad, local.grad)


def test_a_client_waits_for_room(two: Two) -> None:
    with (
        two.held(),
        CassClient(two.ill, timeout=LIMIT) as client,
        CassClient(two.ill, timeout=0.5) as hasty,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(ask, client, 0)
        wait_until(lambda: two.hold.holds)
        with pytest.raises(Overloaded) as full:
            ask(hasty, 1)
        assert full.value.retry_delay > 0
        refused = two.refused()
        second = pool.submit(ask, client, 2)
        wait_until(lambda: two.refused() > refused + 3)
        two.hold.let_go()
        assert_right([first.result(LIMIT), second.result(LIMIT)], [0, 2])


def test_late_answers(tmp_path: Path) -> None:
    hold = Hold(tmp_path / "held")
    with (
        all_serving(start(program=hold.program)) as (server,),
        CassClient(server.address, timeout=2) as client,
    ):
        hold.hold()
        with pytest.raises(Timeout, match=f"^{server.address}: no answer"):
            ask(client, 0)
        assert client.info().device == "cpu"
        hold.let_go()
        assert_right(list(by_calls(client, range(4))), range(4))


def test_a_stopped_server_alone(two: Two) -> None:
    with CassClient(two.ill, timeout=1) as used, CassClient(two.ill, timeout=1) as unused:
        ask(used, 0)
        with two.stopped():
            for client in (used, unused):
                with pytest.raises(Timeout):
                    ask(client, 0)
        for client in (used, unused):
            wait_until(lambda: is_answered(client))  # noqa: B023 - called here


def is_answered(client: CassClient) -> bool:
    """Whether a call is answered in time."""
    try:
        assert_right([ask(client, 1)], [1])
    except (Timeout, Unavailable):
        return False
    return True


@pytest.mark.parametrize("way", [by_calls, by_stream])
def test_a_stopped_server_beside_another(two: Two, way: Callable[..., Any]) -> None:
    """All threads that share a client are answered by the other one."""
    with CassClient(two.both, timeout=4) as client, ThreadPoolExecutor(4) as pool:
        with two.held():  # until the client is connected to it
            calls: list[Future[Any]] = []
            while not two.hold.holds:
                calls.append(pool.submit(ask, client, 0))
                wait(calls, timeout=0.05)
        for call in calls:
            call.result(LIMIT)
        with two.stopped():
            found = pool.map(lambda _: list(way(client, range(6))), range(4))
            for masks in found:
                assert_right(masks, range(6))


def test_a_stopped_server_with_a_fallback(two: Two) -> None:
    with CassClient(two.ill, timeout=1, fallback="local") as client:
        ask(client, 0)
        with two.stopped():
            with pytest.warns(FallbackWarning, match="no answer within the deadline"):
                masks = ask(client, 1)
            assert_right(
                [masks, *by_calls(client, range(6)), *by_stream(client, range(6))],
                [1, *range(6), *range(6)],
            )
        assert client.local_answers == 13
        wait_until(lambda: answers_remotely(client))


@pytest.mark.slow
@pytest.mark.parametrize("after", [10, 200, 100_000, 3_000_000])
def test_a_connection_that_breaks_before_or_in_an_answer(two: Two, after: int) -> None:
    with (
        BreakingProxy(two.well, [after]) as proxy,
        CassClient(proxy.address, timeout=LIMIT) as client,
    ):
        assert_same_loss(client)
        assert proxy.broke_all
