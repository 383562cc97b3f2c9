"""A call's state over HTTP, for the thread that computes its answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


class HttpContext:
    """A call's state, for the thread that computes; see `CallContext`."""

    def __init__(self) -> None:
        self.expires = math.inf
        """The caller's deadline, on the monotonic clock."""
        self._is_active = True
        self._callbacks: list[Callable[[], Any]] = []

    def is_active(self) -> bool:
        """See `CallContext`."""
        return self._is_active

    def time_remaining(self) -> float:
        """See `CallContext`."""
        return max(0.0, self.expires - time.monotonic())

    def add_callback(self, callback: Callable[[], Any], /) -> bool:
        """See `CallContext`; `end` may come from the event loop meanwhile."""
        self._callbacks.append(callback)
        if self._is_active:
            return True
        # Whoever takes it off the list calls it.
        try:
            self._callbacks.remove(callback)
        except ValueError:
            return True
        return False

    def cancel(self) -> None:
        """Nobody waits for the answer."""
        self._is_active = False

    def end(self) -> None:
        """The answer is taken, or nobody waits for it."""
        self._is_active = False
        while self._callbacks:
            self._callbacks.pop()()
