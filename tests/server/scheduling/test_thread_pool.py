"""A pool runs every call that it took, also where threads cannot be started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cass_server.scheduling.thread_pool import ThreadPool
from tests.server.support.processes import LIMIT, Gate


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(3, "some")
    yield made
    made.shutdown()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_results_and_errors(pool: ThreadPool) -> None:
    futures = [pool.submit(divmod, 7, n) for n in (2, 0, 3)]
    assert [f.result(LIMIT) for f in futures[::2]] == [(3, 1), (2, 1)]
    assert isinstance(futures[1].exception(LIMIT), ZeroDivisionError)
    assert pool.submit(int, "11", base=2).result(LIMIT) == 3


def test_as_many_at_a_time_as_there_may_be(pool: ThreadPool) -> None:
    gate = Gate()
    futures = [pool.submit(gate.wait) for _ in range(5)]
    gate.wait_held(3)
    assert sum(future.running() for future in futures) == 3
    gate.let_go(2)
    gate.wait_held(2)
    gate.open()
    for future in futures:
        future.result(LIMIT)


@pytest.mark.parametrize("busy", [0, 1])
def test_without_a_new_thread_a_call_waits_for_one(
    pool: ThreadPool, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and for the first that has time."""
    gate, ran = Gate(), []
    held = [pool.submit(gate.wait) for _ in range(busy)]
    gate.wait_held(busy)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        futures = [pool.submit(ran.append, n) for n in range(4)]
    gate.open()
    for future in (*held, *futures):
        future.result(LIMIT)
    assert ran == [0, 1, 2, 3]


def test_without_any_thread_there_is_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than one that takes calls and never runs them."""
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        ThreadPool(3, "none")


def test_the_end(pool: ThreadPool) -> None:
    """What was taken runs, or is cancelled where that is wanted; nothing else is taken."""
    gate = Gate()
    first = [pool.submit(gate.wait) for _ in range(3)]
    gate.wait_held(3)
    waiting = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    gate.open()
    pool.shutdown()
    assert all(future.done() for future in first)
    end = time.monotonic() + LIMIT
    while any(t.name == "some" for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [t for t in threading.enumerate() if t.name == "some"]
