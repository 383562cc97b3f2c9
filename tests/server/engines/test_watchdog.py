"""Computations that hang are reported, even where they hold Python's lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cass_server.engines import watchdog as module
from cass_server.engines.watchdog import Watchdog
from tests.server.support.processes import LIMIT, wait_until
from tests.support.programs import ended

SECONDS = 0.2

STUCK = """
import ctypes, faulthandler, threading
from cass_server.engines.watchdog import Watchdog

armed, arm = threading.Event(), faulthandler.dump_traceback_later

def arm_and_tell(*args, **options):
    arm(*args, **options)
    armed.set()

faulthandler.dump_traceback_later = arm_and_tell
watchdog = Watchdog(0.2)
watchdog.start(lambda: print("late", flush=True))
armed.wait()
with watchdog.watched():
    ctypes.PyDLL(None).sleep(1000)  # with Python's lock
print("not ended")
"""


class Clock:
    """Stands still; counts how often it is looked at."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0

    def monotonic(self) -> float:
        """What `time.monotonic` returns."""
        self.looks += 1
        return self.now

    def wait_looked(self) -> None:
        """Return once it was looked at three times more."""
        seen = self.looks
        wait_until(lambda: self.looks >= seen + 3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture
def watched(clock: Clock) -> Iterator[tuple[Watchdog, threading.Event]]:
    """A watchdog, and what it sets when a computation is late."""
    watchdog, late = Watchdog(SECONDS), threading.Event()
    watchdog.start(late.set)
    yield watchdog, late
    watchdog.close()


def test_each_computation_has_its_own_time(
    clock: Clock, watched: tuple[Watchdog, threading.Event]
) -> None:
    """Those that ended are forgotten, and no time passes for those that have just begun."""
    watchdog, late = watched
    for _ in range(2):
        with watchdog.watched():
            clock.now += 0.9 * SECONDS
            clock.wait_looked()
        clock.now += 9 * SECONDS
        clock.wait_looked()
    assert not late.is_set()
    with watchdog.watched():
        clock.now += 1.1 * SECONDS
        assert late.wait(LIMIT)


def test_of_several_computations_one_is_late(
    clock: Clock, watched: tuple[Watchdog, threading.Event]
) -> None:
    watchdog, late = watched
    begun, end = threading.Event(), threading.Event()

    def compute() -> None:
        with watchdog.watched():
            begun.set()
            end.wait(LIMIT)

    hanging = threading.Thread(target=compute, daemon=True)
    hanging.start()
    assert begun.wait(LIMIT)
    clock.now += 0.6 * SECONDS
    with watchdog.watched():
        clock.wait_looked()
        assert not late.is_set()
        clock.now += 0.6 * SECONDS
        assert late.wait(LIMIT)
    end.set()
    hanging.join(LIMIT)


def test_one_that_is_closed_while_it_looks_ends_no_process(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer that would end the process is not left running by a look that had begun."""
    running = threading.Event()
    cancelled: list[bool] = []
    watchdog = Watchdog(SECONDS)

    def arm(*_: object, **__: object) -> None:
        watchdog.close()
        running.set()

    def cancel() -> None:
        cancelled.append(running.is_set())
        running.clear()

    fake = SimpleNamespace(dump_traceback_later=arm, cancel_dump_traceback_later=cancel)
    monkeypatch.setattr(module, "faulthandler", fake)
    watchdog.start(lambda: None)
    wait_until(lambda: len(cancelled) == 2)
    assert cancelled == [False, True]
    assert not running.is_set()


def test_a_process_that_is_stuck_as_a_whole_ends() -> None:
    """With exit code 1, and with what its threads did on standard error."""
    done = ended("-c", STUCK)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Timeout (" in done.stderr
