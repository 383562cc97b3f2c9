"""Answers arrive although the server stops.

A stopping gRPC server closes a connection once its last call is over, and for gRPC a call is over
when its end is in the socket's buffer. What the caller sends after that, if only that it has read
so and so much, is answered by a reset, which drops what the buffer has: megabytes, if the caller
reads slowly. So a server that stops ends a call only when the buffer of its connection is empty.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import logging
import os
import socket
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import _server
from grpc._cython import cygrpc

# From here on an answer and the end of its call are sent one after the other, which costs 50 us.
# What is smaller has a moment to get into the buffer before connections are closed.
_LARGE_BYTES = 1 << 20
# How often the buffers are looked at, at most.
_LOOK_SECONDS = 0.05
# Until what gRPC has taken is in a buffer, and was looked at there.
_SETTLE_SECONDS = 2 * _LOOK_SECONDS
# For connections to close once nothing is under way on them.
_CLOSING_SECONDS = 0.5
# What gRPC itself says to the peer at the end, which one that is gone never takes.
_FAREWELL_BYTES = 512

_log = logging.getLogger(__name__)

Peer: TypeAlias = tuple[str, int]
"""Address and port."""


class Delivery:
    """Ends calls, and tells when all answers have arrived.

    Args:
        threads: where the end of a call waits, if the server stops.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._port = 0
        self._stopping = False
        self._lock = threading.Lock()
        self._waiting = 0
        self._unread: dict[Peer, int] = {}
        self._looked = 0.0

    def stop(self, port: int) -> None:
        """From now on connections to this port are closed; comes before gRPC is told so."""
        self._port = port
        self._stopping = True

    def respond(
        self, rpc_event: Any, state: Any, behavior: Any, argument_thunk: Callable[[], Any], *_: Any
    ) -> None:
        """As gRPC's ``_unary_response_in_pool``, for messages of bytes."""
        cygrpc.install_context_from_request_call_event(rpc_event)
        try:
            answered: tuple[Any, bool] = _server._call_behavior(
                rpc_event, state, behavior, argument_thunk(), None
            )
            message, is_answered = answered
            if not is_answered:
                return
            if len(message) < _LARGE_BYTES and not self._stopping:
                _server._status(rpc_event, state, message)
            else:
                self._send(rpc_event, state, message)
        except Exception:  # which may be gRPC's serving thread's
            _log.exception("a call's answer cannot be sent")
            rpc_event.call.cancel()
        finally:
            cygrpc.uninstall_context()

    def wait_taken(self, context: grpc.ServicerContext) -> None:
        """Returns when the server does not stop, or what the peer was sent has arrived."""
        if self._stopping:
            self._wait_taken(context.peer(), context.is_active)

    def wait_sent(self, server: grpc.Server, end: float) -> None:
        """Returns when all answers are in the sockets' buffers, or at this time."""
        while _has_unsent(server) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def wait_arrived(self, server: grpc.Server, stopped: threading.Event, end: float) -> None:
        """Returns when all answers have arrived, or ends what is left of the server at this time.

        ``stopped`` is what its ``stop`` has returned. gRPC waits for every peer to confirm the end,
        and a dead one never does.
        """
        quiet = 0
        while not stopped.wait(_CLOSING_SECONDS):
            unread = max(self._look().values(), default=0)
            is_quiet = not _has_unsent(server) and not self._waiting and unread <= _FAREWELL_BYTES
            quiet = quiet + 1 if is_quiet else 0
            # Twice: what was on its way at the first look has arrived, or never does.
            if quiet == 2 or time.monotonic() >= end:
                server.stop(0).wait(_CLOSING_SECONDS)
                return

    def _send(self, rpc_event: Any, state: Any, message: bytes) -> None:
        token = _server._SEND_MESSAGE_TOKEN

        def sent(_: Any) -> Any:
            with state.condition:
                finished = _server._possibly_finish_call(state, token)
            if finished[0] is None:
                self._end(rpc_event, state)
            return finished

        with state.condition:
            if not _server._is_rpc_state_active(state):
                return
            first = _server._get_initial_metadata_operation(state, None)
            state.initial_metadata_allowed = False
            operations = (first, cygrpc.SendMessageOperation(message, 0))
            rpc_event.call.start_server_batch(operations, sent)
            state.due.add(token)

    def _end(self, rpc_event: Any, state: Any) -> None:
        """Ends a call whose answer is in the socket's buffer; in gRPC's serving thread."""
        if not self._stopping:
            _server._status(rpc_event, state, None)
            return

        def end() -> None:
            try:
                self._wait_taken(
                    rpc_event.call.peer().decode(), lambda: _server._is_rpc_state_active(state)
                )
                _server._status(rpc_event, state, None)
            finally:
                self._count(-1)

        self._count(1)
        try:
            self._threads.submit(end)
        except Exception:  # there is no memory: it ends at once, as where nothing stops
            _log.exception("the end of a call cannot wait")
            self._count(-1)
            _server._status(rpc_event, state, None)

    def _count(self, change: int) -> None:
        with self._lock:
            self._waiting += change

    def _wait_taken(self, name: str, is_active: Callable[[], bool]) -> None:
        peer = _peer(name)
        time.sleep(_SETTLE_SECONDS)
        while is_active() and self._look().get(peer):
            time.sleep(_SETTLE_SECONDS)

    def _look(self) -> dict[Peer, int]:
        """What peers have not taken, at most a moment ago."""
        with self._lock:
            if time.monotonic() >= self._looked + _LOOK_SECONDS:
                self._unread = unread_bytes(self._port)
                self._looked = time.monotonic()
            return self._unread


def _has_unsent(server: grpc.Server) -> bool:
    """Whether the end of a call is not in a buffer yet; only gRPC's own state has that."""
    states: set[Any] = getattr(getattr(server, "_state", None), "rpc_states", set())
    return any(getattr(call, "statused", False) for call in states.copy())


def unread_bytes(port: int) -> dict[Peer, int]:
    """Bytes that have not arrived, of this process's connections to a TCP port, by their peers."""
    found: dict[Peer, int] = {}
    for name in os.listdir("/dev/fd"):
        try:
            end = socket.socket(fileno=int(name))
        except OSError:  # no socket, or closed meanwhile
            continue
        try:
            if end.family in (socket.AF_INET, socket.AF_INET6):
                host, number = end.getpeername()[:2]
                if end.getsockname()[1] == port:
                    count = array.array("i", [0])
                    fcntl.ioctl(end, termios.TIOCOUTQ, count)
                    found[_host(host), number] = count[0]
        except OSError:  # listens, or is closed
            continue
        finally:
            end.detach()
    return found


def _peer(name: str) -> Peer:
    """The address in gRPC's name of a peer, as ``ipv6:%5B::1%5D:50051``."""
    kind, _, address = unquote(name).partition(":")
    host, _, port = address.rpartition(":")
    if kind not in ("ipv4", "ipv6"):  # such as unix:, where nothing is reset
        return name, 0
    return _host(host.strip("[]")), int(port)


def _host(host: str) -> str:
    """An address in one form, also where an IPv6 socket has an IPv4 peer."""
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)
