"""The slots of the compute pool: how many run, in which order, and that none is ever lost."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass_server.scheduling.compute_pool import ComputePool
from tests.server.support.processes import LIMIT, Gate, wait_until


class Held:
    """Tasks that run until they are let go.

    Attributes:
        gate: where they wait.
        most: how many ran at a time.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._ended = threading.Semaphore(0)

    def __call__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.gate.wait()
        with self._lock:
            self._now -= 1
        self._ended.release()

    def let_go(self, number: int = 1) -> None:
        """Let so many end, and wait until they have."""
        self.gate.let_go(number)
        for _ in range(number):
            assert self._ended.acquire(timeout=LIMIT)


def assert_free(pool: ComputePool, slots: int) -> None:
    """So many slots are free, neither more nor less."""
    wait_until(lambda: pool._free == slots)
    held, further = Held(), threading.Event()
    for _ in range(slots):
        pool.submit(held)
    held.gate.wait_held(slots)
    pool.submit(further.set)
    assert not further.is_set()
    held.let_go(slots)
    assert further.wait(timeout=LIMIT)


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_as_many_run_as_there_are_slots(slots: int) -> None:
    pool, held = ComputePool(slots), Held()
    for _ in range(20):
        assert pool.submit(held).done()  # which is all that gRPC looks at
    held.gate.wait_held(slots)
    for _ in range(20 - slots):
        held.let_go()
        held.gate.wait_held()
    held.let_go(slots)
    assert held.most == slots


def test_first_come_first_served() -> None:
    """Calls and threads that want a slot, in one queue."""
    pool, held, order = ComputePool(1), Held(), list[str]()
    pool.submit(held)
    held.gate.wait_held()

    def foreign(name: str) -> None:
        pool.acquire()
        order.append(name)
        pool.release()

    with ThreadPoolExecutor(3) as others:
        for queued, name in enumerate("abcdef", 1):
            if name in "bce":
                others.submit(foreign, name)
            else:
                pool.submit(order.append, name)
            wait_until(lambda queued=queued: len(pool._queue) == queued)  # type: ignore[misc]
        assert order == []
        held.let_go()
        wait_until(lambda: len(order) == 6)
    assert order == list("abcdef")


def test_one_that_comes_later_overtakes_no_other() -> None:
    """Though its thread runs and has a slot to give: that goes to the first in the queue."""
    pool, order = ComputePool(1), list[str]()
    go, ended = threading.Event(), threading.Event()

    def gives_way() -> None:
        assert go.wait(timeout=LIMIT)
        pool.release()
        pool.acquire()
        order.append("back")
        ended.set()

    pool.submit(gives_way)
    pool.submit(order.append, "waited")
    go.set()
    assert ended.wait(timeout=LIMIT)
    assert order == ["waited", "back"]


class Quits(BaseException):
    """Not even an error."""


def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ZeroDivisionError(), Quits(), SystemExit(1)])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_task_that_raises_loses_no_slot(
    slots: int, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ComputePool(slots)
    for _ in range(2 * slots):
        pool.submit(fails, error)
    assert_free(pool, slots)
    assert [record.getMessage() for record in caplog.records] == (
        ["a call's thread failed"] * 2 * slots
    )


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_no_slot_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches the caller of `submit`."""
    pool = ComputePool(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                pool.submit(int)
    assert_free(pool, 2)


def test_without_a_thread_a_task_waits_for_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, gate, ran = ComputePool(1), Gate(), threading.Event()

    def lends() -> None:
        gate.wait()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pool.lent():
                pass

    pool.submit(lends)
    gate.wait_held(1)
    pool.submit(ran.set)
    gate.let_go(1)
    assert ran.wait(LIMIT)
    assert_free(pool, 1)


def test_a_slot_that_is_released_is_for_others() -> None:
    """While its thread waits for what is no computation, such as a batch."""
    pool, held = ComputePool(1), Held()
    came, back = threading.Event(), threading.Event()

    def waits() -> None:
        pool.release()
        assert came.wait(timeout=LIMIT)
        pool.acquire()
        back.set()

    for _ in range(3):
        pool.submit(waits)
    pool.submit(held)
    held.gate.wait_held()
    came.set()
    assert not back.is_set()
    held.let_go()
    assert back.wait(timeout=LIMIT)
    assert_free(pool, 1)


class Thing:
    """What a call holds, such as its message."""


@pytest.mark.parametrize("how", ["idle", "queued", "failing"])
def test_nothing_of_a_finished_call_is_kept(how: str) -> None:
    """By idle threads; without help of the garbage collector."""
    pool = ComputePool(1)
    done = threading.Semaphore(0)
    things = [Thing() for _ in range(3)]
    watched = [weakref.ref(thing) for thing in things]

    def use(_: Thing) -> None:
        if how == "failing":
            raise ZeroDivisionError

    gc.disable()
    logging.disable(logging.ERROR)  # records hold tracebacks, and these hold all
    try:
        if how == "queued":
            pool.submit(done.acquire)
        while things:
            pool.submit(use, things.pop())
        if how == "queued":
            done.release()
        wait_until(lambda: all(reference() is None for reference in watched))
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


def test_an_idle_thread_is_used_again() -> None:
    """The one that was idle last; and there are no more threads than ever ran at a time."""
    pool, held = ComputePool(3), Held()
    before = set(threading.enumerate())

    def ours() -> int:
        return len(set(threading.enumerate()) - before)

    for _ in range(3):
        pool.submit(held)
    held.gate.wait_held(3)
    held.let_go(3)
    wait_until(lambda: len(pool._idle) == 3)
    used = []
    for _ in range(10):
        ran = threading.Event()
        pool.submit(lambda ran=ran: (used.append(threading.get_ident()), ran.set()))  # type: ignore[misc]
        assert ran.wait(timeout=LIMIT)
        wait_until(lambda: len(pool._idle) == 3)
    assert len(set(used)) == 1
    assert ours() == 3


@settings(max_examples=25)
@given(
    slots=st.integers(1, 4),
    plan=st.lists(st.sampled_from(["run", "fail", "give way", "foreign"]), max_size=40),
)
def test_any_plan_of_calls_leaves_all_slots(slots: int, plan: list[str]) -> None:
    pool, running = ComputePool(slots), threading.Semaphore(slots)
    done = threading.Semaphore(0)

    def run(kind: str) -> None:
        if not running.acquire(blocking=False):
            return  # which leaves `done` short
        if kind == "give way":
            running.release()
            pool.release()
            pool.acquire()
            assert running.acquire(blocking=False)
        running.release()
        done.release()
        if kind == "fail":
            raise Quits

    def foreign() -> None:
        pool.acquire()
        try:
            run("run")
        finally:
            pool.release()

    logging.disable(logging.ERROR)
    try:
        with ThreadPoolExecutor(40) as others:
            for kind in plan:
                if kind == "foreign":
                    others.submit(foreign)
                else:
                    pool.submit(run, kind)
            for _ in plan:
                assert done.acquire(timeout=LIMIT)
        assert_free(pool, slots)
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def fast_switches() -> Iterator[None]:
    """Threads take turns often, so that what is not locked is seen to be so."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (4, 3)])
def test_heavy_work_leaves_a_slot(slots: int, most: int) -> None:
    """Further heavy work waits without a slot, so that what is not heavy runs."""
    pool, held, light = ComputePool(slots), Held(), threading.Event()

    def heavy() -> None:
        with pool.heavy(lambda: None):
            held()

    for _ in range(2 * slots):
        pool.submit(heavy)
    held.gate.wait_held(most)
    if slots > 1:
        pool.submit(light.set)
        assert light.wait(timeout=LIMIT)
    for _ in range(2 * slots - most):
        held.let_go()
        held.gate.wait_held()
    held.let_go(most)
    assert held.most == most
    assert_free(pool, slots)


def test_heavy_work_that_nobody_waits_for_any_more() -> None:
    pool, held, ended = ComputePool(2), Held(), threading.Event()

    def check() -> None:
        raise TimeoutError

    def late() -> None:
        with pytest.raises(TimeoutError), pool.heavy(check):
            raise AssertionError("it had its turn")
        ended.set()

    def heavy() -> None:
        with pool.heavy(lambda: None):
            held()

    pool.submit(heavy)
    held.gate.wait_held()
    pool.submit(late)
    assert ended.wait(timeout=LIMIT)
    held.let_go()
    assert_free(pool, 2)
