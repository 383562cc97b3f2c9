"""A process's connection to a server, and how an event loop carries out the steps of a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from cass_client.credentials import Metadata
from cass_client.peer import SERVICE, STREAM, UNARY, PeerBase
from cass_client.requests import MaskRequest
from cass_client.settings import Settings
from cass_client.steps import (
    END,
    Close,
    Compute,
    Give,
    Open,
    Probe,
    Read,
    Received,
    Send,
    Sleep,
    Steps,
    StreamSteps,
    Take,
    Write,
)
from cass_core.errors import CassError

T = TypeVar("T")


class AsyncLink(PeerBase):
    """A process's connection, as `cass_client.link.Link`, for the event loop that uses it."""

    _channel: grpc.aio.Channel | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _rpcs: dict[str, Callable[..., Any]]
    _metadata: Metadata = ()

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._probes: set[asyncio.Task[None]] = set()

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
            except grpc.RpcError as raised:
                error = raised

    async def stream(
        self, steps: StreamSteps[None], requests: AsyncIterator[MaskRequest]
    ) -> AsyncIterator[Give]:
        """Carry the steps of a stream out as its answers are asked for."""
        stream: _Stream | None = None
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
                    elif isinstance(step, Open):
                        stream = _Stream(self._connected()[0], self.timeout, self._metadata)
                    elif isinstance(step, Write | Read | Close):
                        assert stream is not None
                        outcome = await stream.carry_out(step)
                    else:
                        outcome = await self._carry_out(step)
                except Exception as raised:
                    error = raised
        finally:
            if stream is not None:
                await stream.carry_out(Close())

    async def close(self) -> None:
        """Close the connection. Calls under way are cancelled."""
        channel, self._channel = self._channel, None
        for probe in self._probes:
            probe.cancel()
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()

    async def _carry_out(self, step: Send | Sleep | Compute | Probe) -> Any:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Compute):
            return await asyncio.to_thread(step.function)
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
        else:
            self._probe(step)
        return None

    async def _send(self, step: Send) -> Received:
        rpc = self._connected()[1][step.method]
        metadata = (*self._metadata, *step.metadata)
        call = rpc(step.request, timeout=step.timeout, metadata=metadata)
        message: bytes = await call
        if not step.metadata:
            return Received(message)
        return Received(message, tuple(await call.trailing_metadata()))

    def _connected(self) -> tuple[grpc.aio.Channel, dict[str, Callable[..., Any]]]:
        """The channel and its methods by name, bytes in and out."""
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            target, options = self.address()
            credentials = self.credentials
            self._channel = (
                grpc.aio.insecure_channel(target, options)
                if credentials.channel is None
                else grpc.aio.secure_channel(target, credentials.channel, options)
            )
            prefix = f"/{SERVICE.full_name}/"
            self._rpcs = {name: self._channel.unary_unary(prefix + name) for name in UNARY}
            self._metadata, self._loop = credentials.metadata, loop
        return self._channel, self._rpcs

    def _let_go(self) -> None:
        self._channel = None

    def _probe(self, step: Probe) -> None:
        async def probe() -> None:
            with contextlib.suppress(CassError):
                await self.run(step.steps())

        task = asyncio.create_task(probe())
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)


class _Stream:
    """An open stream; a task of gRPC's takes the messages out of the queue."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float, metadata: Metadata) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        rpc: Any = channel.stream_stream(STREAM)
        self._call = rpc(self._outgoing(), timeout=timeout, metadata=metadata)

    async def _outgoing(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            yield message

    async def carry_out(self, step: Write | Read | Close) -> bytes | None:
        """A step on this stream."""
        if isinstance(step, Read):
            message = await self._call.read()
            return None if message is grpc.aio.EOF else message
        if isinstance(step, Write):
            self._messages.put_nowait(step.message)
        else:
            self._messages.put_nowait(None)
            self._call.cancel()
        return None
