"""Callers through the SDK, for whom no call may fail whatever happens behind their target."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cass_client import CassClient
from tests.client.support.faults import ask, expected

_SEEDS = range(8)


class Callers:
    """Threads with a client each, which request masks that are known, one after another.

    Args:
        target: of their clients.
        number: of threads.
        pause: seconds between the calls of each.
        options: of their clients.

    Attributes:
        failures: what calls raised, and wrong answers, in words.
    """

    def __init__(
        self,
        target: str,
        number: int = 4,
        pause: float = 0.0,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self.failures: list[str] = []
        self._pause, self._stop = pause, threading.Event()
        self._expected = [expected(seed) for seed in _SEEDS]
        self._right = [0] * number
        clients = [CassClient(target, timeout=timeout, **options) for _ in range(number)]
        self._threads = [threading.Thread(target=self._run, args=a) for a in enumerate(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, index: int, client: CassClient) -> None:
        with client:
            for seed in itertools.cycle(_SEEDS):
                if self._stop.wait(self._pause):
                    return
                try:
                    np.testing.assert_array_equal(ask(client, seed), self._expected[seed])
                    self._right[index] += 1
                except Exception as error:
                    self.failures.append(repr(error))

    def answered(self) -> int:
        """Right answers so far."""
        return sum(self._right)

    def more(self, answers: int = 50) -> Callable[[], bool]:
        """Whether each thread has had so many more right answers than now; fails with a call."""
        goals = [right + answers for right in self._right]

        def have() -> bool:
            assert self.failures == []
            return all(right >= goal for right, goal in zip(self._right, goals, strict=True))

        return have

    def stop(self) -> None:
        """Wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def calling(target: str, number: int = 4, **options: Any) -> Iterator[Callers]:
    """Callers, stopped at the end, none of whose calls may have failed."""
    callers = Callers(target, number, **options)
    try:
        yield callers
    finally:
        callers.stop()
    assert callers.failures == []
