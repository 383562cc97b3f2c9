"""Notices computations on a device that do not end."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Callable, Iterator

# How often computations are looked at, at most.
_LOOK_SECONDS = 1.0
# So many times its limit later, a process that is stuck as a whole is ended.
_STUCK = 2
# Standard error, whatever `sys.stderr` is.
_DESCRIPTOR = 2


class Watchdog:
    """Looks now and then whether a computation outlasts its time, so that none pays for it.

    A kernel that hangs cannot be ended, and what waits for it holds its threads: the process has to
    be replaced. It may even wait with Python's lock held, as where torch's allocator waits for the
    device; such a process is ended after twice the time, by a thread that needs no lock, and what
    its threads did is printed.

    Args:
        seconds: that a computation may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: dict[int, float] = {}  # of the threads that compute
        self._closed = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within it this thread computes."""
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._began[thread]

    def start(self, on_late: Callable[[], None]) -> None:
        """Calls ``on_late``, once and in a thread, when a computation is late."""
        look = min(_LOOK_SECONDS, self._seconds / 4)
        arguments = on_late, look
        threading.Thread(target=self._look, args=arguments, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Looks no more."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _look(self, on_late: Callable[[], None], seconds: float) -> None:
        late: set[tuple[int, float]] = set()
        while not self._closed.wait(seconds):
            faulthandler.dump_traceback_later(
                _STUCK * self._seconds + seconds, exit=True, file=_DESCRIPTOR
            )
            end = time.monotonic() - self._seconds
            seen = {entry for entry in self._began.copy().items() if entry[1] < end}
            # Twice: in a process that was stopped all seem late at the first look.
            if seen & late:
                on_late()
                break
            late = seen
        if self._closed.is_set():  # perhaps since the last look began, which would end the process
            faulthandler.cancel_dump_traceback_later()
