"""Decides when a server that failed is called again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


class CircuitBreaker:
    """Closed while the server answers; open for a pause after it failed, each longer than the last.

    When a pause is over, one probe is let through: if it is answered, the breaker closes on trial.
    The outage is over once the server answers a request, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._is_open = False
        self._pause = 0.0
        self._until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls to the server are held back."""
        return self._is_open

    def take_probe(self) -> bool:
        """Whether the caller shall probe the server now; it then calls `probed` or `failed`."""
        with self._lock:
            if not self._is_open or self._probing or self._clock() < self._until:
                return False
            self._probing = True
            return True

    def probed(self) -> None:
        """The probe was answered."""
        with self._lock:
            self._is_open = self._probing = False

    def failed(self) -> bool:
        """The server did not answer; whether this is the beginning of an outage."""
        with self._lock:
            if self._is_open and not self._probing:
                return False  # a call that was under way
            begins = not self._pause
            self._pause = min(2 * self._pause or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            self._until = self._clock() + self._pause
            self._is_open, self._probing = True, False
            return begins

    def worked(self) -> None:
        """The server answered a request."""
        if self._pause and not self._is_open:
            with self._lock:
                self._pause = 0.0
