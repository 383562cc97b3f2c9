"""A process's connection to a server, and how an event loop carries out the effects of a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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
from cass_client.transport.sync import Transport
from cass_client.transport.trace_context import trace_metadata

T = TypeVar("T")


class AsyncTransport(Connection):
    """A process's connection, as `transport.sync.Transport`, for the event loop that uses it."""

    _channel: grpc.aio.Channel | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether no call can be made from this process; see `transport.fork_safety`."""
        return fork_safety.is_broken() or fork_safety.is_broken_for_loops()

    async def run(self, effects: Effects[T]) -> T:
        """Carry a call's effects out."""
        run = Run(effects)
        while (effect := run.next()) is not None:
            with run:
                run.outcome = await self._carry_out(effect)
        return run.result

    async def stream(
        self, effects: Effects[None], requests: AsyncIterator[MaskRequest]
    ) -> AsyncIterator[Give]:
        """Carry the effects of a stream out as its answers are asked for."""
        run = Run(effects)
        with contextlib.closing(effects):
            while (effect := run.next()) is not None:
                if isinstance(effect, Give):
                    yield effect
                    continue
                with run:
                    take = isinstance(effect, Take)
                    request = anext(requests, END) if take else self._carry_out(effect)
                    run.outcome = await request

    async def close(self) -> None:
        """Close the connection; other tasks' calls open it again."""
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()

    async def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return await self._send(effect)
            case Compute():
                return await asyncio.to_thread(effect.function)
            case Read():
                return await effect.stream.read()
            case Open():
                channel, _ = await self._connected()
                return _Stream(channel, self.timeout, (*self._metadata, *trace_metadata()))
            case Sleep():
                await asyncio.sleep(effect.seconds)
            case Probe():
                # In a thread, which outlives an event loop that is run for one call.
                Transport(self._settings).run_beside(effect.call())
        return None

    async def _send(self, effect: Send) -> Any:
        while True:
            channel, rpcs = await self._connected()
            metadata = (*self._metadata, *trace_metadata(), *effect.metadata)
            try:
                call = rpcs[effect.method](
                    effect.request, timeout=effect.timeout, metadata=metadata
                )
                message: bytes = await call
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if channel is self._channel or (task is not None and task.cancelling()):
                    raise
                continue  # another task has closed the channel in between
            return (message, await call.trailing_metadata()) if effect.metadata else message

    async def _connected(self) -> tuple[grpc.aio.Channel, dict[str, Callable[..., Any]]]:
        """The channel and its methods by name, bytes in and out."""
        loop = asyncio.get_running_loop()
        if self._channel is not None and self.has_moved(self._address):
            self._channel = None
        if self._channel is None or self._loop is not loop:
            # Files are read, and perhaps hosts looked up.
            address = await asyncio.to_thread(self.address)
            credentials = await asyncio.to_thread(lambda: self.credentials)
        if self._channel is None or self._loop is not loop:  # another task may have been faster
            self._channel = self._open_channel(grpc.aio, address, credentials)
            self._loop = loop
        return self._channel, self._rpcs


class _Stream:
    """An open stream; a task of gRPC's takes the messages out of the queue."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float, metadata: Metadata) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        rpc: Any = channel.stream_stream(STREAM)
        self._call = rpc(self._outgoing(), timeout=timeout, metadata=metadata)
        self.write = self._messages.put_nowait

    async def _outgoing(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            yield message

    async def read(self) -> bytes | None:
        """The next message; None at the end."""
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    def close(self) -> None:
        """End it, if it has not."""
        self._messages.put_nowait(None)
        self._call.cancel()
