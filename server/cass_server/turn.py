"""Bounds what is computed on the event loop before it looks at its sockets again."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType


class Turn:
    """The time that the loop has for computing in one turn; `with` counts what is done within.

    Each request computed there may be quick, and yet a hundred that arrive together hold up a
    health check for as long as all of them take. For the tasks of one event loop; what is within
    does not wait.

    Args:
        seconds: after which no more is to be begun in a turn.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._used = 0.0
        self._begun = 0.0

    def has_time(self) -> bool:
        """Whether more may be begun."""
        return self._used < self._seconds

    async def wait(self) -> None:
        """Return in this turn if that has time, else in a later one."""
        while not self.has_time():
            await asyncio.sleep(0)

    def __enter__(self) -> None:
        if not self._used:
            asyncio.get_running_loop().call_soon(self._end)
        self._begun = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._used += time.perf_counter() - self._begun

    def _end(self) -> None:
        """The loop has looked at its sockets: what was put off until then comes after that."""
        self._used = 0.0
