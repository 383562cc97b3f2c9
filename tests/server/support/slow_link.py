"""A connection that carries few bytes a second, as between two continents."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.server.support.processes import LIMIT


class SlowLink:
    """Forwards one connection: at once to the server, and at a rate from it.

    Attributes:
        address: for the client.
        carried: bytes that the client has been sent so far.
    """

    def __init__(self, address: str, rate: float) -> None:
        self._rate = rate
        self._server = socket.socket()
        # The rest waits at the server, as it does before a link that is narrow.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        host, _, port = address.rpartition(":")
        self._server.connect((host, int(port)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.carried = 0

    def run(self) -> None:
        """Forward until both sides have ended."""
        with self._listener, self._server, self._listener.accept()[0] as client:
            upwards = threading.Thread(target=self._forward, args=(client, self._server))
            upwards.start()
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while data := self._server.recv(1 << 14):
                    self.carried += len(data)
                    client.sendall(data)
                    time.sleep(max(0.0, began + self.carried / self._rate - time.monotonic()))
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            upwards.join()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def slow_link(address: str, rate: float) -> Iterator[SlowLink]:
    """A link for one connection to a server, of so many bytes a second."""
    link = SlowLink(address, rate)
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(link.run)
        yield link
        ended.result(LIMIT)
