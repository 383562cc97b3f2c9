"""Callers through the SDK, for whom no call may fail whatever happens behind the proxy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cass_client import CassClient, Tls
from cass_core import MaskSpec, generate_mask
from tests.docker.engine import LIMIT

SIZE, CELLS = (64, 64), (16, 16)
SPEC = MaskSpec(patch_size=1)


class Caller:
    """Asks for one mask after the other, and checks each.

    Attributes:
        answered: so many were right.
    """

    def __init__(self, target: str, number: int, tls: Tls | None) -> None:
        self._client = CassClient(target, tls=tls, timeout=LIMIT)
        self._boxes = [np.array([[4 * number, 4, 4 * number + 24, 40]], np.float32)]
        self._expected = generate_mask(self._boxes, SIZE, CELLS, SPEC).tobytes()
        self.answered = 0

    def ask_until(self, stop: threading.Event) -> None:
        """The SDK's errors are raised."""
        with self._client:
            while not stop.is_set():
                mask = self._client.generate_mask(self._boxes, SIZE, CELLS, SPEC)
                assert mask.tobytes() == self._expected
                self.answered += 1


class Callers:
    """Several of them, each in a thread with a connection of its own."""

    def __init__(self, callers: list[Caller], asking: list[Future[None]]) -> None:
        self._callers = callers
        self._asking = asking

    def answered(self) -> int:
        """Right answers so far."""
        return sum(caller.answered for caller in self._callers)

    def more(self, answers: int = 50) -> Callable[[], bool]:
        """Whether each has had so many more right answers than now; raises the first failure."""
        goals = [caller.answered + answers for caller in self._callers]

        def have() -> bool:
            for asking in self._asking:
                if asking.done():
                    asking.result()
            return all(c.answered >= goal for c, goal in zip(self._callers, goals, strict=True))

        return have


@contextlib.contextmanager
def calling(target: str, callers: int = 4, tls: Tls | None = None) -> Iterator[Callers]:
    """Callers, stopped at the end, which raises what any call of theirs has raised."""
    stop = threading.Event()
    group = [Caller(target, number, tls) for number in range(callers)]
    with ThreadPoolExecutor(callers) as threads:
        asking = [threads.submit(caller.ask_until, stop) for caller in group]
        try:
            yield Callers(group, asking)
        finally:
            stop.set()
        for future in asking:
            future.result(timeout=LIMIT)
