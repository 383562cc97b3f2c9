"""What peers do that send or read slowly, not at all, or more than is good."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.server.support.processes import LIMIT
from tests.server.support.raw_http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    call,
    frame,
    opening,
    prefixed,
)

CALLS = range(1, 33, 2)
"""Numbers of 16 HTTP/2 streams, as many as a server lets one connection have."""
HEALTH = "grpc.health.v1.Health"

_WINDOW = 65535
_FRAME = 16384
# To say yes to SETTINGS or to a PING.
_ACK = 1


@contextlib.contextmanager
def connections(address: str, number: int, window: int = _WINDOW) -> Iterator[list[Connection]]:
    """So many, of which each stream takes so many bytes of an answer."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Connection(address)) for _ in range(number)]
        for connection in opened:
            connection.send(opening(window))
        yield opened


def on_all(
    opened: Sequence[Connection], make: Callable[[int], bytes], calls: Iterable[int] = CALLS
) -> None:
    """On each connection, what is made for each of these streams; return once it has been read."""
    for connection in opened:
        connection.send(*map(make, calls))
    for connection in opened:
        connection.wait_read()


class Upload:
    """Sends one message of a call as fast as the server takes it, in a thread of its own.

    Args:
        address: of the server.
        method: of the service.
        data: the message, or the beginning of one.
        size: bytes that it is said to have.
        metadata: of the call.

    Attributes:
        sent: bytes so far.
        ended: what the server has ended the call with, or None: kind of frame, and its content.
        answer: what it has answered.
    """

    def __init__(
        self, address: str, method: str, data: bytes, size: int = 0, **metadata: str
    ) -> None:
        self.sent = 0
        self.ended: tuple[int, bytes] | None = None
        self.answer = b""
        self._data = struct.pack(">BI", 0, size or len(data)) + data
        self._is_whole = size in (0, len(data))
        self._windows, self._initial = {0: _WINDOW, 1: _WINDOW}, _WINDOW
        self._connection = Connection(address)
        self._connection.send(opening(1 << 30), frame(WINDOW_UPDATE, 0, 0, b"\x3f\xff\0\0"))
        self._connection.send(call(method, **metadata))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self.ended is None:
                if not self._send():
                    self._read()

    def _send(self) -> bool:
        """Sends a frame, if there is more and the server takes it."""
        size = min(self._windows[0], self._windows[1], _FRAME, len(self._data) - self.sent)
        if size <= 0:
            return False
        is_last = self._is_whole and self.sent + size == len(self._data)
        piece = self._data[self.sent : self.sent + size]
        self._connection.send(frame(DATA, END_STREAM * is_last, 1, piece))
        for stream in self._windows:
            self._windows[stream] -= size
        self.sent += size
        return True

    def _read(self) -> None:
        got = self._connection.read()
        if got is None:
            self.ended = (GOAWAY, b"")
            return
        kind, flags, stream, payload = got
        if kind == WINDOW_UPDATE:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind in (SETTINGS, PING) and not flags & _ACK:
            for at in range(0, len(payload) if kind == SETTINGS else 0, 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == INITIAL_WINDOW_SIZE:
                    self._windows[1] += value - self._initial
                    self._initial = value
            self._connection.send(frame(kind, _ACK, 0, payload if kind == PING else b""))
        elif kind == DATA:
            self.answer += payload
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
            self.ended = (kind, payload)

    def stop(self) -> None:
        """End the connection."""
        self._connection.shut()
        self._thread.join(LIMIT)
        self._connection.vanish()

    def join(self) -> bytes:
        """The message of the answer, without its prefix, once the call has ended."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return self.answer[5:]


@contextlib.contextmanager
def uploads(
    address: str, number: int, *arguments: object, **options: object
) -> Iterator[list[Upload]]:
    """So many of an `Upload`, which vanish in the end."""
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(number):
            begun.append(Upload(address, *arguments, **options))  # type: ignore[arg-type]
            stack.callback(begun[-1].stop)
        yield begun


def half(message: bytes, stream: int) -> bytes:
    """DATA with the first half of a message."""
    whole = prefixed(message)
    return frame(DATA, 0, stream, whole[: len(whole) // 2])
