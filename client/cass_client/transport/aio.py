"""A process's connection to a server, and how an event loop carries out the steps of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from cass_client.arguments import MaskRequest
from cass_client.transport import fork_safety
from cass_client.transport.connection import PREFIX, STREAM, UNARY, Address, PeerBase
from cass_client.transport.credentials import Metadata
from cass_client.transport.effects import (
    END,
    Compute,
    Give,
    Open,
    Probe,
    Read,
    Send,
    SendWith,
    Sleep,
    Steps,
    StreamSteps,
    Take,
)
from cass_client.transport.sync import Link
from cass_client.transport.trace_context import trace_metadata
from cass_core.errors import CassError

T = TypeVar("T")


class AsyncLink(PeerBase):
    """A process's connection, as `transport.sync.Link`, for the event loop that uses it."""

    _channel: grpc.aio.Channel | None = None
    _address: Address
    _loop: asyncio.AbstractEventLoop | None = None
    _rpcs: dict[str, Callable[..., Any]]
    _metadata: Metadata = ()

    @property
    def is_cut_off(self) -> bool:
        """Whether no call can be made from this process; see `transport.fork_safety`."""
        return fork_safety.is_broken() or fork_safety.is_broken_for_loops()

    async def run(self, steps: Steps[T]) -> T:
        """Carry steps out."""
        outcome: Any = None
        error: Exception | None = None
        while True:
            try:
                step = steps.send(outcome) if error is None else steps.throw(error)
            except StopIteration as stop:
                value: T = stop.value
                return value
            outcome = error = None
            try:
                outcome = await self._carry_out(step)
            except (grpc.RpcError, CassError) as raised:
                error = raised

    async def stream(
        self, steps: StreamSteps[None], requests: AsyncIterator[MaskRequest]
    ) -> AsyncIterator[Give]:
        """Carry the steps of a stream out as its answers are asked for."""
        outcome: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    step = steps.send(outcome) if error is None else steps.throw(error)
                except StopIteration:
                    return
                outcome = error = None
                try:
                    if isinstance(step, Give):
                        yield step
                    elif isinstance(step, Take):
                        outcome = await anext(requests, END)
                    elif isinstance(step, Read):
                        outcome = await step.stream.read()
                    elif isinstance(step, Open):
                        channel, _ = await self._connected()
                        metadata = (*self._metadata, *trace_metadata())
                        outcome = _Stream(channel, self.timeout, metadata)
                    else:
                        outcome = await self._carry_out(step)
                except Exception as raised:
                    error = raised
        finally:
            steps.close()

    async def close(self) -> None:
        """Close the connection; other tasks' calls open it again."""
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()

    async def _carry_out(self, step: Send | SendWith | Sleep | Compute | Probe) -> Any:
        if isinstance(step, Send | SendWith):
            return await self._send(step)
        if isinstance(step, Compute):
            return await asyncio.to_thread(step.function)
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
        else:
            self._probe(step)
        return None

    async def _send(self, step: Send | SendWith) -> Any:
        while True:
            channel, rpcs = await self._connected()
            metadata = (*self._metadata, *trace_metadata())
            if isinstance(step, SendWith):
                metadata += step.metadata
            try:
                call = rpcs[step.method](step.request, timeout=step.timeout, metadata=metadata)
                message: bytes = await call
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if channel is self._channel or (task is not None and task.cancelling()):
                    raise
                continue  # another task has closed the channel in between
            if isinstance(step, Send):
                return message
            return message, await call.trailing_metadata()

    async def _connected(self) -> tuple[grpc.aio.Channel, dict[str, Callable[..., Any]]]:
        """The channel and its methods by name, bytes in and out."""
        loop = asyncio.get_running_loop()
        if self._channel is not None and self.has_moved(self._address):
            self._let_go()
        if self._channel is None or self._loop is not loop:
            # Files are read, and perhaps hosts looked up.
            address = await asyncio.to_thread(self.address)
            credentials = await asyncio.to_thread(lambda: self.credentials)
        if self._channel is None or self._loop is not loop:  # another task may have been faster
            self._channel = (
                grpc.aio.insecure_channel(address.target, address.options)
                if credentials.channel is None
                else grpc.aio.secure_channel(address.target, credentials.channel, address.options)
            )
            fork_safety.opened(self._channel)
            self._rpcs = {name: self._channel.unary_unary(PREFIX + name) for name in UNARY}
            self._metadata, self._loop = credentials.metadata, loop
            self._address = address
        return self._channel, self._rpcs

    def _let_go(self) -> None:
        self._channel = None

    def _probe(self, step: Probe) -> None:
        # In a thread, which outlives an event loop that is run for one call.
        Link(self._settings).run_beside(step.steps())


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
