"""A process's connection to a server, and how a thread carries out the effects of a call."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import grpc

from cass_client.arguments import MaskRequest
from cass_client.transport import fork_safety
from cass_client.transport.connection import STREAM, Connection
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


class Transport(Connection):
    """Opened by the first call, closed by `close`, opened again by the next call."""

    _channel: grpc.Channel | None = None
    _executor: ThreadPoolExecutor | None = None

    def run(self, effects: Effects[T]) -> T:
        """Carry a call's effects out in this thread."""
        run = Run(effects)
        while (effect := run.next()) is not None:
            with run:
                run.outcome = self._carry_out(effect)
        return run.result

    def stream(self, effects: Effects[None], requests: Iterator[MaskRequest]) -> Iterator[Give]:
        """Carry the effects of a stream out as its answers are asked for."""
        run = Run(effects)
        with contextlib.closing(effects):
            while (effect := run.next()) is not None:
                if isinstance(effect, Give):
                    yield effect
                    continue
                with run:
                    take = isinstance(effect, Take)
                    run.outcome = next(requests, END) if take else self._carry_out(effect)

    def submit(self, effects: Effects[T]) -> Future[T]:
        """Carry a call's effects out in a thread."""
        with self.lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_FUTURES, "cass-client")
            # A trace, like all that is in the caller's context, goes along.
            return self._executor.submit(copy_context().run, self.run, effects)

    def close(self) -> None:
        """Close the connection, once futures are done; other threads' calls open it again."""
        with self.lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        with self.lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return self._send(effect)
            case Compute():
                return effect.function()
            case Read():
                return effect.stream.read()
            case Open():
                return self._open()
            case Sleep():
                time.sleep(effect.seconds)
            case Probe():
                self.run_beside(effect.call())
        return None

    def _send(self, effect: Send) -> Any:
        while True:
            channel, rpcs = self._connected()
            metadata = (*self._metadata, *trace_metadata(), *effect.metadata)
            try:
                rpc: Any = rpcs[effect.method]
                with fork_safety.calling():
                    if not effect.metadata:
                        return rpc(effect.request, effect.timeout, metadata)
                    message, call = rpc.with_call(effect.request, effect.timeout, metadata)
                    return message, call.trailing_metadata()
            except ValueError:
                if channel is self._channel:
                    raise
                # Another thread has closed it in between.

    def _open(self) -> _Stream:
        while True:
            channel, _ = self._connected()
            try:
                return _Stream(channel, self.timeout, (*self._metadata, *trace_metadata()))
            except ValueError:
                if channel is self._channel:
                    raise

    def _connected(self) -> tuple[grpc.Channel, dict[str, Callable[..., Any]]]:
        """The channel and its methods by name, bytes in and out.

        Not by the generated stub, which copies tensors through protobuf.
        """
        channel = self._channel
        if channel is not None and not (self.follows and self.has_moved(self._address)):
            return channel, self._rpcs
        with self.lock:
            if self._channel is None or self.has_moved(self._address):
                self._channel = self._open_channel(grpc, self.address(), self.credentials)
            return self._channel, self._rpcs

    def run_beside(self, effects: Effects[None]) -> None:
        """Carry a call's effects out in a background thread, whatever comes of it."""

        def run() -> None:
            with contextlib.suppress(CassError):
                self.run(effects)

        threading.Thread(target=run, name="cass-client-probe", daemon=True).start()


class _Stream:
    """An open stream; gRPC takes the messages out of the queue in a thread of its own."""

    def __init__(self, channel: grpc.Channel, timeout: float, metadata: Metadata) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        rpc: Any = channel.stream_stream(STREAM)
        self._call = rpc(iter(self._messages.get, None), timeout=timeout, metadata=metadata)
        self.write = self._messages.put

    def read(self) -> bytes | None:
        """The next message; None at the end."""
        message: bytes | None = next(self._call, None)
        return message

    def close(self) -> None:
        """End it, if it has not."""
        self._messages.put(None)
        self._call.cancel()
