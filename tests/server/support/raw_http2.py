"""A gRPC client on a bare socket, which does nothing by itself: for clients that misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping

from google.protobuf.message import Message

from tests.server.support.processes import LIMIT

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
"""The setting (RFC 9113, 6.5.2)."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def prefixed(message: bytes) -> bytes:
    """A message as gRPC puts it into DATA frames."""
    return struct.pack(">BI", 0, len(message)) + message


def data_frames(data: bytes, stream: int = 1, end: bool = True) -> bytes:
    """DATA frames of at most 16 KiB, the last of which ends the stream or not."""
    parts = [data[at : at + 16384] for at in range(0, len(data), 16384)] or [b""]
    flags = [0] * (len(parts) - 1) + [END_STREAM * end]
    return b"".join(
        frame(DATA, flag, stream, part) for part, flag in zip(parts, flags, strict=True)
    )


def opening(window: int = 65535) -> bytes:
    """What a connection begins with.

    Args:
        window: bytes of DATA that the server may send on each stream before a WINDOW_UPDATE.
    """
    return _PREFACE + frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def more(window: int, stream: int) -> bytes:
    """The WINDOW_UPDATE by which so many bytes more may come on a stream, or with 0 on all."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", window))


def call(
    method: str, stream: int = 1, *, service: str = "cass.v1.CassService", **metadata: str
) -> bytes:
    """The HEADERS frame that begins a call."""
    return header_frame(
        stream,
        {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{service}/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
            **metadata,
        },
    )


def request(method: str, message: Message, stream: int = 1, **metadata: str) -> bytes:
    """The frames of a call with one message, which is its last."""
    data = prefixed(message.SerializeToString())
    return call(method, stream, **metadata) + data_frames(data, stream)


def header_frame(stream: int, headers: Mapping[str, str], end: bool = False) -> bytes:
    """A HEADERS frame, which ends the stream or not."""
    # Each one literal, not indexed and not compressed (RFC 7541, 6.2.2).
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(content)]) + content.encode()
        for name, content in headers.items()
    )
    return frame(HEADERS, END_HEADERS | END_STREAM * end, stream, block)


class Connection:
    """A connection that sends what it is given and answers nothing by itself.

    Args:
        address: HOST:PORT of the server.
        receive_buffer: bytes that the kernel keeps of what is not read; 0 for its own choice.
    """

    def __init__(self, address: str, receive_buffer: int = 0) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.socket()
        self._socket.settimeout(LIMIT)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self._socket.connect((host, int(port)))
        except OSError:
            self._socket.close()
            raise
        self._input = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._input.close()
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        """Send what is given, as it is."""
        self._socket.sendall(b"".join(frames))

    def read(self) -> tuple[int, int, int, bytes] | None:
        """Kind, flags, stream and payload of the next frame; None at the end of the connection."""
        try:
            head = self._input.read(9)
            if len(head) < 9:
                return None
            length = int.from_bytes(head[:3], "big")
            return head[3], head[4], int.from_bytes(head[5:], "big"), self._input.read(length)
        except ConnectionResetError:
            return None

    def answer(self, stream: int = 1) -> bytes:
        """The one message of an answer, without its prefix, once the stream has ended."""
        received = b""
        while (got := self.read()) is not None:
            kind, flags, on, payload = got
            if on == stream and kind == DATA:
                received += payload
            if on == stream and kind in (DATA, HEADERS) and flags & END_STREAM:
                break
        return received[5:]

    def refusal(self, stream: int = 1) -> bytes:
        """The headers that end a stream on which no message may come before."""
        while (got := self.read()) is not None:
            kind, flags, on, payload = got
            assert kind != DATA
            if on == stream and kind == HEADERS and flags & END_STREAM:
                return payload
        raise AssertionError("the connection has ended")

    def wait_read(self) -> None:
        """Return once the server has read all that was sent; what comes until then is dropped."""
        self.send(frame(PING, payload=bytes(8)))
        while (got := self.read()) is not None and got[:2] != (PING, 1):
            pass
        assert got is not None

    def shut(self) -> None:
        """End it for the thread that reads; the socket is still to be closed."""
        with contextlib.suppress(OSError):  # by the peer
            self._socket.shutdown(socket.SHUT_RDWR)

    def vanish(self) -> None:
        """End as a killed process does that has not read all: by a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.__exit__()


def frames(connection: Connection, kind: int, count: int) -> list[tuple[int, int, int, bytes]]:
    """The next so many frames of a kind."""
    found = []
    while len(found) < count:
        got = connection.read()
        assert got is not None
        if got[0] == kind:
            found.append(got)
    return found
