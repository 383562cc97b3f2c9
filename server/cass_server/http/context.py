"""A call's state over HTTP, for the thread that computes its answer."""

from __future__ import annotations

import math
import threading
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
        # Callbacks come from the thread that computes, `end` from the event loop.
        self._lock = threading.Lock()

    def is_active(self) -> bool:
        """See `CallContext`."""
        return self._is_active

    def time_remaining(self) -> float:
        """See `CallContext`."""
        return max(0.0, self.expires - time.monotonic())

    def add_callback(self, callback: Callable[[], Any], /) -> bool:
        """See `CallContext`."""
        with self._lock:
            if not self._is_active:
                return False
            self._callbacks.append(callback)
        return True

    def cancel(self) -> None:
        """Nobody waits for the answer."""
        self._is_active = False

    def end(self) -> None:
        """The answer is taken, or nobody waits for it."""
        with self._lock:
            self._is_active = False
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
