"""A simulated time for the threads of a `Batcher`, which jumps from event to event."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

from cass_server.scheduling import batcher
from tests.server.support.processes import LIMIT


class Wait(threading.Event):
    """The wait of one thread, until a time of the clock."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until


class Clock:
    """A time in which one thread runs at once, until it waits: then the next one's time has come.

    The threads are the test's own and those that it starts; the waits are of the batcher's
    conditions, `sleep_until` and `join`. If all wait for each other, all fail.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[Wait] = []

    def sleep_until(self, until: float) -> None:
        """At least until all others wait."""
        self.wait(Wait(max(until, self.now)))

    def wait(self, wait: Wait) -> None:
        """Let the others run until this wait is over."""
        self.waits.append(wait)
        self.run_next()
        assert wait.wait(LIMIT)
        assert self.now < math.inf, "everything waits for something else"

    def run_next(self) -> None:
        """End the wait that ends first; of several the one that began first."""
        first = min(self.waits, key=lambda wait: wait.until)
        self.waits.remove(first)
        self.now = max(self.now, first.until)
        first.set()

    def start(self, function: Callable[[], Any]) -> Task:
        """Run the function in a thread, to the point where it waits."""
        task = Task(self, function)
        self.sleep_until(self.now)
        return task


class Task:
    """A function in a thread of its own, and how it ended: when, and with which error."""

    def __init__(self, clock: Clock, function: Callable[[], Any]) -> None:
        self.time = math.nan
        self.error: BaseException | None = None
        self._clock = clock
        self._joined = Wait(math.inf)
        began = Wait(clock.now)
        clock.waits.append(began)
        threading.Thread(target=self._run, args=(began, function), daemon=True).start()

    def _run(self, began: Wait, function: Callable[[], Any]) -> None:
        assert began.wait(LIMIT)
        try:
            function()
        except BaseException as error:
            self.error = error
        self.time = self._joined.until = self._clock.now
        self._clock.run_next()

    def join(self) -> Task:
        """Wait for its end; itself."""
        self._clock.wait(self._joined)
        return self


class ClockCondition:
    """`threading.Condition` for one thread that waits, by the clock."""

    def __init__(self, clock: Clock, lock: Any) -> None:
        self._clock = clock
        self._lock = lock
        self._wait = Wait(0)

    def wait(self, timeout: float) -> None:
        """See `threading.Condition`."""
        assert 0 < timeout <= threading.TIMEOUT_MAX
        is_endless = timeout == threading.TIMEOUT_MAX
        self._wait = Wait(math.inf if is_endless else self._clock.now + timeout)
        self._lock.release()
        try:
            self._clock.wait(self._wait)
        finally:
            self._lock.acquire()

    def notify(self) -> None:
        """See `threading.Condition`."""
        self._wait.until = min(self._wait.until, self._clock.now)


@contextlib.contextmanager
def simulated() -> Iterator[Clock]:
    """Batchers follow a clock, which begins at 0."""
    clock = Clock()
    condition = partial(ClockCondition, clock)
    with mock.patch.multiple(batcher, monotonic=lambda: clock.now, Condition=condition):
        yield clock
