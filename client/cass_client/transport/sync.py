"""How threads perform the effects of a call."""

from __future__ import annotations

import atexit
import contextlib
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import grpc

from cass_client.arguments import MaskRequest
from cass_client.transport import fork_safety
from cass_client.transport.connection import STREAM, Channel, Connection
from cass_client.transport.credentials import Metadata
from cass_client.transport.effects import (
    END,
    Compute,
    Effect,
    Effects,
    Give,
    Open,
    Probe,
    Read,
    Run,
    Send,
    Sleep,
    Take,
)
from cass_client.transport.trace_context import trace_metadata
from cass_core.errors import CassError

T = TypeVar("T")

# Calls of `generate_mask_future` under way at a time; further ones wait.
_FUTURES = 8
# What streams and their threads have at the program's end; they take milliseconds.
_CLOSING_SECONDS = 2.0


class Transport(Connection):
    """A connection of threads, which performs effects in the calling one."""

    _executor: ThreadPoolExecutor | None = None
    _aborted = threading.Event()  # of the executor

    def run(self, effects: Effects[T], aborted: threading.Event | None = None) -> T:
        """Performs the effects of a call in this thread, unless a future's call is aborted."""
        run = Run(effects)
        while (effect := run.next()) is not None:
            if aborted is not None and aborted.is_set():
                effects.close()
                raise CancelledError
            with run:
                run.outcome = self._perform(effect)
        return run.result

    def stream(self, effects: Effects[None], requests: Iterator[MaskRequest]) -> Iterator[Give]:
        """Performs the effects of a stream as its answers are read."""
        run = Run(effects)
        with contextlib.closing(effects):
            while (effect := run.next()) is not None:
                if isinstance(effect, Give):
                    yield effect
                    continue
                with run:
                    take = isinstance(effect, Take)
                    run.outcome = next(requests, END) if take else self._perform(effect)

    def submit(self, effects: Effects[T]) -> Future[T]:
        """Performs the effects of a call in another thread."""
        with self.lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_FUTURES, "cass-client")
                self._aborted = threading.Event()
                _futures[self] = fork_safety.processes
            # A trace, like all that is in the caller's context, goes along.
            run = copy_context().run
            return self._executor.submit(run, self.run, effects, self._aborted)

    def close(self) -> None:
        """Closes the connection, once futures are done; other threads' calls open it again."""
        with self.lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        with self.lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.raw.close()

    def abort(self) -> None:
        """Closes the connection, and cancels futures and what other threads have under way."""
        with self.lock:
            executor, self._executor = self._executor, None
            channel, self._channel = self._channel, None
            self._aborted.set()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if channel is not None:
            channel.raw.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return self._send(effect)
            case Compute():
                return effect.function()
            case Read():
                return effect.stream.read()
            case Open():
                return self._on_channel(lambda channel: _Stream(channel, self.timeout))
            case Sleep():
                time.sleep(effect.seconds)
            case Probe():
                self.probe(effect)
        return None

    def _send(self, send: Send) -> Any:
        def call(channel: Channel) -> Any:
            rpc, metadata = channel.rpcs[send.method], metadata_of(channel, send)
            with fork_safety.calling():
                if not send.metadata:
                    return rpc(send.request, send.timeout, metadata)
                message, call = rpc.with_call(send.request, send.timeout, metadata)
                return message, call.trailing_metadata()

        return self._on_channel(call)

    def _on_channel(self, call: Callable[[Channel], T]) -> T:
        while True:
            channel = self._connected()
            try:
                return call(channel)
            except ValueError:
                if channel is self._channel:
                    raise
                # Another thread has closed it in between.

    def _connected(self) -> Channel:
        channel = self._channel
        if channel is not None and self.is_open:
            return channel
        with self.lock:
            if self._channel is None or not self.is_open:
                self._channel = self._open(grpc, self._target())
            return self._channel

    def probe(self, effect: Probe) -> None:
        """Performs the effects of a call in a background thread, whatever comes of it."""

        def run() -> None:
            with contextlib.suppress(CassError):
                self.run(effect.call())

        threading.Thread(target=run, name="cass-client-probe", daemon=True).start()


def metadata_of(channel: Channel, send: Send | None = None) -> Metadata:
    """What goes with a call, or with a stream."""
    return (*channel.metadata, *trace_metadata(), *(send.metadata if send else ()))


class _Stream:
    """An open stream; gRPC takes the messages out of the queue in a thread of its own."""

    def __init__(self, channel: Channel, timeout: float) -> None:
        self.process = fork_safety.processes
        self.ended = threading.Event()
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        rpc: Any = channel.raw.stream_stream(STREAM)
        self._call = rpc(self._outgoing(), timeout, metadata_of(channel))
        self.write = self._messages.put
        if self._call.add_callback(self._has_ended):
            _streams.add(self)

    def _outgoing(self) -> Iterator[bytes]:
        _threads.add(threading.current_thread())
        yield from iter(self._messages.get, None)

    def _has_ended(self) -> None:
        _threads.add(threading.current_thread())
        self.ended.set()

    def read(self) -> bytes | None:
        """The next message; None at the end."""
        message: bytes | None = next(self._call, None)
        return message

    def end(self) -> None:
        """Write no more."""
        self._messages.put(None)

    def close(self) -> None:
        """Cancel it, if it has not ended."""
        self.end()
        self._call.cancel()


_streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Those of gRPC's that streams need."""


@atexit.register
def _close_streams() -> None:
    """Closes the streams that a program holds at its end.

    Python then stops gRPC's threads wherever they are, and a stream that is closed later waits
    for ever for a lock that one of them had.
    """
    streams = [stream for stream in _streams if stream.process == fork_safety.processes]
    end = time.monotonic() + _CLOSING_SECONDS
    for stream in streams:
        stream.close()
    for stream in streams:
        stream.ended.wait(max(0.0, end - time.monotonic()))
    for thread in list(_threads):
        thread.join(max(0.0, end - time.monotonic()))


_futures: weakref.WeakKeyDictionary[Transport, int] = weakref.WeakKeyDictionary()
"""Transports with futures, and the process that they are of."""


def _abort_futures() -> None:
    """Cancels futures if Ctrl-C ends the program, which else waits for the answers to all."""
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        for transport, process in list(_futures.items()):
            if process == fork_safety.processes:
                transport.abort()


# What `atexit` runs comes after `concurrent.futures` has waited, which registers itself like this.
getattr(threading, "_register_atexit", atexit.register)(_abort_futures)
