"""How an event loop performs the effects of a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc

from cass_client.arguments import MaskRequest
from cass_client.transport.connection import STREAM, Channel, Connection
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
from cass_client.transport.sync import Transport, metadata_of

T = TypeVar("T")


class AsyncTransport(Connection):
    """A connection of the event loop that uses it."""

    _loop: asyncio.AbstractEventLoop | None = None
    _for_loops = True

    async def run(self, effects: Effects[T]) -> T:
        """Performs the effects of a call."""
        run = Run(effects)
        while (effect := run.next()) is not None:
            with run:
                run.outcome = await self._perform(effect)
        return run.result

    async def stream(
        self, effects: Effects[None], requests: AsyncIterator[MaskRequest]
    ) -> AsyncIterator[Give]:
        """Performs the effects of a stream as its answers are read."""
        run = Run(effects)
        with contextlib.closing(effects):
            while (effect := run.next()) is not None:
                if isinstance(effect, Give):
                    yield effect
                    continue
                with run:
                    take = isinstance(effect, Take)
                    outcome = anext(requests, END) if take else self._perform(effect)
                    run.outcome = await outcome

    async def close(self) -> None:
        """Closes the connection; other tasks' calls open it again."""
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.raw.close()

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return await self._send(effect)
            case Compute():
                return await asyncio.to_thread(effect.function)
            case Read():
                return await effect.stream.read()
            case Open():
                return _Stream(await self._connected(), self.timeout)
            case Sleep():
                await asyncio.sleep(effect.seconds)
            case Probe():
                # In a thread, which outlives an event loop that is run for one call.
                Transport(self._settings).probe(effect)
        return None

    async def _send(self, send: Send) -> Any:
        while True:
            channel = await self._connected()
            try:
                call = channel.rpcs[send.method](
                    send.request, timeout=send.timeout, metadata=metadata_of(channel, send)
                )
                message: bytes = await call
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if channel is self._channel or (task is not None and task.cancelling()):
                    raise
                continue  # another task has closed the channel in between
            return (message, await call.trailing_metadata()) if send.metadata else message

    async def _connected(self) -> Channel:
        loop = asyncio.get_running_loop()
        if not (self.is_open and self._loop is loop):
            self._channel = None
            target = await asyncio.to_thread(self._target)
            if self._channel is None or self._loop is not loop:  # no other task was faster
                self._channel, self._loop = self._open(grpc.aio, target), loop
        assert self._channel is not None
        return self._channel


class _Stream:
    """An open stream; a task of gRPC's takes the messages out of the queue."""

    def __init__(self, channel: Channel, timeout: float) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        rpc: Any = channel.raw.stream_stream(STREAM)
        self._call = rpc(self._outgoing(), timeout=timeout, metadata=metadata_of(channel))
        self.write = self._messages.put_nowait

    async def _outgoing(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            yield message

    async def read(self) -> bytes | None:
        """The next message; None at the end."""
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    def end(self) -> None:
        """Write no more."""
        self._messages.put_nowait(None)

    def close(self) -> None:
        """Cancel it, if it has not ended."""
        self.end()
        self._call.cancel()
