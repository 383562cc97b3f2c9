"""Cancels calls whose peers stall."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How often stalled peers are looked for.
_LOOK_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Deadlines:
    """Cancels calls whose peers do not send or read in time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[Callable[[], object], float] = {}
        threading.Thread(target=self._look, name="stalled peers", daemon=True).start()

    def start(self, cancel: Callable[[], object], seconds: float) -> None:
        """Calls ``cancel`` after so many seconds, unless `stop` comes first."""
        with self._lock:
            self._due[cancel] = time.monotonic() + seconds

    def stop(self, cancel: Callable[[], object]) -> bool:
        """Ends the deadline; returns whether that was in time."""
        with self._lock:
            return self._due.pop(cancel, None) is not None

    @contextmanager
    def within(self, cancel: Callable[[], object], seconds: float) -> Iterator[None]:
        """Calls ``cancel`` unless the block, which waits for a peer, ends in time."""
        self.start(cancel, seconds)
        try:
            yield
        finally:
            self.stop(cancel)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            self._end_stalled(time.monotonic())

    def _end_stalled(self, now: float) -> None:
        with self._lock:
            stalled = [cancel for cancel, due in self._due.items() if due <= now]
            for cancel in stalled:
                del self._due[cancel]  # so that `stop` comes too late from now on
        for cancel in stalled:
            _log.debug("peer stalled, call cancelled")
            try:
                cancel()
            except Exception:  # which concerns this call alone
                _log.exception("a stalled call cannot be cancelled")
