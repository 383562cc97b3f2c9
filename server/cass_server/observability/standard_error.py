"""Standard error as a stream whose writers never wait.

It may be a pipe that nobody reads, or a full disk. Making the descriptor itself non-blocking would
do so for every process that shares it.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable

# What may wait to be written.
_MOST_BYTES = 1 << 20
_DRAIN_SECONDS = 2.0
_DESCRIPTOR = 2


class StandardError(io.TextIOBase):
    """Writes texts to descriptor 2 in a thread, whole ones, in their order.

    Those that would make more than 1 MiB wait are dropped, and ``on_drop`` is called for each; so
    are those that cannot be written, as on a full disk.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, on_drop: Callable[[], None] = lambda: None) -> None:
        _open_descriptor()
        self._on_drop = on_drop
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="standard error", daemon=True).start()

    def fileno(self) -> int:
        """The descriptor, which others may write to."""
        return _DESCRIPTOR

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Has a text written, or drops it."""
        data = text.encode(self.encoding, self.errors)
        with self._changed:
            fits = self._bytes + len(data) <= _MOST_BYTES
            if fits:
                self._waiting.append(data)
                self._bytes += len(data)
                self._changed.notify_all()
        if not fits:
            self._on_drop()
        return len(text)

    def drain(self) -> None:
        """Returns once everything is written, or after two seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, _DRAIN_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            try:
                _write(data)
            except OSError:
                self._on_drop()
            with self._changed:
                self._bytes -= len(data)
                self._changed.notify_all()


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(_DESCRIPTOR, view) :]
        except BlockingIOError:  # another process has made it so
            poll = select.poll()
            poll.register(_DESCRIPTOR, select.POLLOUT)
            poll.poll()


def _open_descriptor() -> None:
    """Has descriptor 2 lead nowhere if the process was started without one.

    Some library writes to it all the same: no socket must get that number.
    """
    if sys.stderr is None:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < _DESCRIPTOR:
            pass
        if descriptor > _DESCRIPTOR:
            os.close(descriptor)
