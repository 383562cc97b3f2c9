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

    A turn ends with the first pass of the loop after its time is used up, not with every pass:
    that would take a callback for each request.

    Args:
        seconds: after which no more is to be begun in a turn.

    Attributes:
        is_over: whether no more is to be begun before the loop has looked at its sockets.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._seconds = seconds
        self._used = 0.0
        self._begun = 0.0

    async def wait(self) -> None:
        """Return once there is time: at once, or in a later turn."""
        while self.is_over:
            await asyncio.sleep(0)

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._used += time.perf_counter() - self._begun
        if self._used >= self._seconds and not self.is_over:
            self.is_over = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """The loop has looked at its sockets: what was put off until then comes after that."""
        self._used = 0.0
        self.is_over = False
