"""A proxy whose connections break."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

from tests.server.support.processes import LIMIT


class BreakingProxy:
    """Forwards connections to a server, and breaks the first ones while answers arrive.

    Args:
        address: of the server.
        breaks: for the first connections, after how many bytes from the server each breaks.
    """

    def __init__(self, address: str, breaks: Sequence[int]) -> None:
        host, port = address.split(":")
        self._server = host, int(port)
        self._left = list(breaks)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def broke_all(self) -> bool:
        """Whether all connections have been made that break."""
        return not self._left

    def __enter__(self) -> BreakingProxy:
        """Begin to forward."""
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Break all that is left, and wait for the threads."""
        for one in (self._listener, *self._sockets):
            _end(one)
        while self._threads:
            thread = self._threads.pop()
            thread.join(LIMIT)
            assert not thread.is_alive()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of the listener
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server, timeout=LIMIT)
                self._sockets += [client, server]
                most = self._left.pop(0) if self._left else None
                self._start(client, server, None)
                self._start(server, client, most)

    def _start(self, *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=_forward, args=arguments))
        self._threads[-1].start()


def _forward(source: socket.socket, sink: socket.socket, most: int | None) -> None:
    """Until either ends, or at most so many bytes."""
    with contextlib.suppress(OSError):
        while most != 0 and (data := source.recv(1 << 16 if most is None else min(most, 1 << 16))):
            sink.sendall(data)
            most = None if most is None else most - len(data)
    _end(source)
    _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
