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
from tests.server.support.processes import LIMIT, wait_until


class Held:
    """Tasks that run until they are let go.

    Attributes:
        running: numbers of those that have begun, in order.
        most: how many ran at a time.
    """

    def __init__(self) -> None:
        """None yet."""
        self.running: list[int] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._begun = threading.Semaphore(0)
        self._ended = threading.Semaphore(0)
        self._go = threading.Semaphore(0)

    def __call__(self, number: int) -> None:
        """Run."""
        with self._lock:
            self.running.append(number)
            self._now += 1
            self.most = max(self.most, self._now)
        self._begun.release()
        assert self._go.acquire(timeout=LIMIT)
        with self._lock:
            self._now -= 1
        self._ended.release()

    def wait_begun(self, number: int = 1) -> None:
        """Wait for so many more to begin."""
        for _ in range(number):
            assert self._begun.acquire(timeout=LIMIT)

    def let_go(self, number: int = 1) -> None:
        """Let so many end, and wait until they have."""
        for _ in range(number):
            self._go.release()
        for _ in range(number):
            assert self._ended.acquire(timeout=LIMIT)


def assert_free(pool: ComputePool, slots: int) -> None:
    """So many slots are free, neither more nor less."""
    wait_until(lambda: pool._free == slots)
    held, further = Held(), threading.Event()
    for number in range(slots):
        pool.submit(held, number)
    held.wait_begun(slots)
    pool.submit(further.set)
    assert not further.is_set()
    held.let_go(slots)
    assert further.wait(timeout=LIMIT)


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_as_many_run_as_there_are_slots(slots: int) -> None:
    pool, held = ComputePool(slots), Held()
    for number in range(20):
        assert pool.submit(held, number).done()  # which is all that gRPC asks
    held.wait_begun(slots)
    for _ in range(20 - slots):
        held.let_go()
        held.wait_begun()
    held.let_go(slots)
    assert held.most == slots


def test_first_come_first_served() -> None:
    """Calls and threads that want a slot, in one queue."""
    pool, held, order = ComputePool(1), Held(), list[str]()
    pool.submit(held, 0)
    held.wait_begun()
    queued: list[threading.Thread] = []

    def foreign(name: str) -> None:
        pool.acquire()
        order.append(name)
        pool.release()

    for name in "abcdef":
        before = len(pool._queue)
        if name in "bce":
            queued.append(threading.Thread(target=foreign, args=(name,)))
            queued[-1].start()
        else:
            pool.submit(order.append, name)
        wait_until(lambda before=before: len(pool._queue) == before + 1)  # type: ignore[misc]
    assert order == []
    held.let_go()
    wait_until(lambda: len(order) == 6)
    assert order == list("abcdef")
    for thread in queued:
        thread.join(timeout=LIMIT)
        assert not thread.is_alive()


def test_one_that_comes_later_overtakes_nobody() -> None:
    """Though its thread runs and has a slot to give, which goes to who is first."""
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


def test_foreign_threads_share_the_slots() -> None:
    pool, held = ComputePool(2), Held()
    pool.submit(held, 0)
    with ThreadPoolExecutor(3) as others:

        def foreign(number: int) -> None:
            pool.acquire()
            try:
                held(number)
            finally:
                pool.release()

        futures = [others.submit(foreign, number) for number in (1, 2, 3)]
        pool.submit(held, 4)
        held.wait_begun(2)
        for _ in range(3):
            held.let_go()
            held.wait_begun()
        held.let_go(2)
        for future in futures:
            future.result(timeout=LIMIT)
    assert held.most == 2
    assert sorted(held.running) == [0, 1, 2, 3, 4]
    assert_free(pool, 2)


def test_a_slot_that_is_released_is_for_others() -> None:
    """While its thread waits for what is no computation, such as a batch."""
    pool, held, came = ComputePool(1), Held(), threading.Event()
    back = threading.Event()

    def waits() -> None:
        pool.release()
        assert came.wait(timeout=LIMIT)
        pool.acquire()
        back.set()

    for _ in range(3):
        pool.submit(waits)
    pool.submit(held, 0)
    held.wait_begun()
    came.set()
    assert not back.is_set()
    held.let_go()
    assert back.wait(timeout=LIMIT)
    assert_free(pool, 1)


class Thing:
    """What a call holds, such as its message."""

    def use(self) -> None:
        """Run the call."""


@pytest.mark.parametrize("how", ["idle", "queued", "failing"])
def test_nothing_of_a_finished_call_is_kept(how: str) -> None:
    """By idle threads; without help of the garbage collector."""
    pool = ComputePool(1)
    done = threading.Semaphore(0)
    things = [Thing() for _ in range(3)]
    watched = [weakref.ref(thing) for thing in things]

    def use(thing: Thing) -> None:
        thing.use()
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

    for number in range(3):
        pool.submit(held, number)
    held.wait_begun(3)
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


@settings(max_examples=25, deadline=None)
@given(
    slots=st.integers(1, 4),
    plan=st.lists(st.sampled_from(["run", "fail", "give way", "foreign"]), max_size=40),
)
def test_whatever_comes_the_slots_are_as_many(slots: int, plan: list[str]) -> None:
    pool = ComputePool(slots)
    lock, now, most = threading.Lock(), 0, 0
    done = threading.Semaphore(0)

    def step(change: int) -> None:
        nonlocal now, most
        with lock:
            now += change
            most = max(most, now)

    def run(kind: str) -> None:
        step(1)
        try:
            if kind == "give way":
                step(-1)
                pool.release()
                pool.acquire()
                step(1)
            if kind == "fail":
                raise Quits
        finally:
            step(-1)
            done.release()

    def foreign() -> None:
        pool.acquire()
        try:
            run("run")
        finally:
            pool.release()

    logging.disable(logging.ERROR)
    threads = [threading.Thread(target=foreign) for kind in plan if kind == "foreign"]
    try:
        for thread in threads:
            thread.start()
        for kind in plan:
            if kind != "foreign":
                pool.submit(run, kind)
        for _ in plan:
            assert done.acquire(timeout=LIMIT)
        for thread in threads:
            thread.join(timeout=LIMIT)
        assert most <= slots
        wait_until(lambda: pool._free == slots)
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def fast_switches() -> Iterator[None]:
    """Threads take turns often, so that what is not locked is seen to be so."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
