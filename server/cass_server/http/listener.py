"""Serves an ASGI application on a port, by uvicorn in a thread, with bounds on its peers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from cass_server.config.address import address_of, listening_sockets
from cass_server.config.limits import Limits
from cass_server.http.exchange import Application

# Connections at a time; each may have as many bytes as are not counted.
_MOST_CONNECTIONS = 1024
# How often it is looked for peers that stall.
_LOOK_SECONDS = 0.5
_JOIN_SECONDS = 5.0
# Of a request's head.
_HEAD_BYTES = 1 << 16


class Listener:
    """Serves from the time it is made until `stop`.

    Args:
        application: what answers.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        limits: the times that a peer has to send the head of a request, and to read an answer.
        tls: context of TLS; None serves plain text.
        shared: whether other processes listen on the port too.

    Attributes:
        address: where it listens, as HOST:PORT.

    Raises:
        CassError: the address cannot be listened on.
    """

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        *,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        shared: bool = False,
    ) -> None:
        self._limits = limits
        self._sockets = listening_sockets(host, port, shared=shared)
        self.address = address_of(host, self._sockets[0].getsockname()[1])
        self._config = Config(
            cast(Any, application),
            http=_Connection,
            ws="none",
            lifespan="off",
            loop="asyncio",
            interface="asgi3",
            log_config=None,
            # The application logs its own failures; these are of peers who send nonsense.
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._config.load()
        self._config.ssl = tls
        self._server = Server(self._config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 0.0) -> None:
        """Stops listening, and returns once all answers have left, or after so many seconds."""
        self._config.timeout_graceful_shutdown = cast(int, seconds)
        self._server.should_exit = True
        self._thread.join(seconds + _JOIN_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        looking = asyncio.create_task(self._look())
        try:
            await self._server.serve(self._sockets)
        finally:
            looking.cancel()

    async def _look(self) -> None:
        """Ends connections whose peers stall, which uvicorn does not."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for connection in list(self._server.server_state.connections):
                cast(_Connection, connection).look(now, self._limits)


class _Connection(H11Protocol):
    """A connection whose peer has a time to send a head, and one to read an answer."""

    _silent_since: float | None = None
    _unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()

    def look(self, now: float, limits: Limits) -> None:
        """Ends the connection if its peer has stalled for too long."""
        is_idle = self.cycle is None or self.cycle.response_complete
        self._silent_since = (self._silent_since or now) if is_idle else None
        is_unread = self.transport.get_write_buffer_size() > 0
        self._unread_since = (self._unread_since or now) if is_unread else None
        if (
            now - (self._silent_since or now) > limits.receive_seconds
            or now - (self._unread_since or now) > limits.send_seconds
        ):
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, unless an answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()


@contextlib.contextmanager
def serving(
    application: Application,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[str]:
    """Serves an ASGI application within the block, without TLS; yields its address, HOST:PORT.

    Raises:
        CassError: the address cannot be listened on.
    """
    listener = Listener(application, host, port, limits=limits)
    try:
        yield listener.address
    finally:
        listener.stop()
