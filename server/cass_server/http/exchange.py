"""One request over HTTP and its answer: what arrives and leaves is bounded, in time and counted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

from cass.contract import REQUEST_ID_KEY
from cass_server.exceptions import Cancelled, Expired, Stopping
from cass_server.http.context import HttpContext
from cass_server.http.errors import SlowBody, TooLarge, error_answer
from cass_server.observability.call import Metadata
from cass_server.rpc.answerer import Answerer
from cass_server.scheduling.admission import SMALL_BYTES

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""

TIMEOUT_KEY = "connect-timeout-ms"
"""The header with the caller's deadline, in milliseconds."""

# What is left of the body of a refused request is taken for so long, and as many times the bytes of
# the largest message.
_DISCARD_SECONDS, _DISCARD_SHARE = 2.0, 4
# How often a stream that is silent looks whether the server stops.
_LOOK_SECONDS = 0.5
_NO_CONTENT = 204
_MAX_DIGITS = 10  # as Connect has it


class Exchange:
    """One request, from its head until its answer has left this process.

    Attributes:
        headers: of the request, names in lower case.
        peer: address of its connection.
        started: when it came, on `time.perf_counter`'s clock.
        context: what the computation asks.
        is_stopping: whether the server stops.
        is_stream: whether the body is messages one after the other, each of which has its time.
        most_bytes: of the body; None for a stream, whose reader limits messages.
        has_started: whether the head of an answer has been sent.
        more_headers: of the answer, beside those that it is sent with.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        answerer: Answerer,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.scope = scope
        self.is_stopping = is_stopping
        self.headers: Metadata = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        client = scope.get("client")
        self.peer = b"" if client is None else f"{client[0]}:{client[1]}".encode()
        self.started = time.perf_counter()
        self.context = HttpContext()
        self.is_stream = self.has_started = False
        self.most_bytes: int | None = None
        self.more_headers: list[tuple[str, str]] = []
        self._receive = receive
        self._send = send
        self._answerer = answerer
        self._limits = answerer.admission.limits
        self._due = time.monotonic() + self._limits.receive_seconds
        # A request without either header has no body.
        self._is_complete = not self.header("transfer-encoding") and self.header(
            "content-length"
        ) in ("", "0")
        self._is_late = self._has_begun = False
        self._start: Message | None = None
        self._received = self._held = 0

    def header(self, name: str) -> str:
        """The first header of a name, or nothing."""
        return next((str(value) for key, value in self.headers if key == name), "")

    def take_deadline(self) -> None:
        """Reads the deadline that a header sets; one that is no number sets none."""
        text = self.header(TIMEOUT_KEY)
        if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
            self.context.expires = time.monotonic() + int(text) / 1e3

    async def receive(self) -> Message:
        """The next part of the body, as ASGI has it.

        Raises:
            SlowBody: it does not arrive in time.
            Stopping: the server stops while a stream is silent.
            TooLarge: there is too much of it.
            Overloaded: there is no room for it.
        """
        if self._is_complete:
            return await self._receive()
        if self.is_stream:
            self._due = time.monotonic() + self._limits.receive_seconds
        while True:
            left = self._due - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(left, _LOOK_SECONDS))):
                    message = await self._receive()
                break
            except TimeoutError:
                if self.is_stream and self.is_stopping():
                    raise Stopping from None
                if left <= _LOOK_SECONDS:
                    self._is_late = True
                    raise SlowBody(self._limits.receive_seconds) from None
        if message["type"] == "http.request":
            self._has_begun = True
            self._is_complete = not message.get("more_body", False)
            self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self._received += size
        if self.most_bytes is not None and self._received > self.most_bytes:
            raise TooLarge(self.most_bytes)
        if self._received > SMALL_BYTES:
            caller = self._answerer.caller(self.headers, self.peer)
            self._answerer.admission.hold(self._received, caller, self._held)
            self._held = self._received

    async def body(self, most: int) -> bytes:
        """All of the body; raises as `receive`, and `Cancelled` if the caller has gone."""
        self.most_bytes = most
        length = self.header("content-length")
        if length.isdigit() and int(length) > most:
            raise TooLarge(most)
        parts = []
        while not self._is_complete:
            message = await self.receive()
            if message["type"] != "http.request":
                raise Cancelled("the caller is gone")
            parts.append(message.get("body", b""))
        return b"".join(parts)

    def let_go(self) -> None:
        """The bytes that have come are counted no more, or otherwise."""
        self._received = 0
        if self._held:
            self._answerer.admission.drop(
                self._held, self._answerer.caller(self.headers, self.peer)
            )
            self._held = 0

    async def unless_gone(self, computing: Coroutine[Any, Any, bytes]) -> bytes:
        """The result, while the caller is there and waits; the body has arrived.

        Raises:
            Cancelled: the caller has gone.
            Expired: the caller's deadline has passed.
        """
        task, gone = asyncio.ensure_future(computing), asyncio.ensure_future(self._gone())
        left = self.context.time_remaining()
        try:
            await asyncio.wait(
                (task, gone),
                timeout=None if left == math.inf else left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                return task.result()
            if gone.done():
                raise Cancelled("the caller is gone")
            raise Expired("the deadline passed before the request was computed")
        finally:
            gone.cancel()
            if not task.done():
                self.context.cancel()
                task.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Sends a part of the answer, as ASGI has it; returns when the transport has taken it.

        The head waits for the first of the body, so that it can tell the length of a body that has
        but one part. A server returns at once from the last part, and from others once there is
        room: so an empty one comes last.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None:
            start, self._start = self._start, None
            self.has_started = True
            await self._discard()
            headers = [*start.get("headers", ()), *self._own_headers()]
            if not more and start["status"] != _NO_CONTENT:
                headers.append((b"content-length", str(len(body)).encode()))
            await self._send({**start, "headers": headers})
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if not more:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.more_headers]
        if not self._is_complete and not self.is_stream:
            # What is left of the body is not read.
            headers.append((b"connection", b"close"))
        return headers

    async def _discard(self) -> None:
        """Takes what is left of the body, for callers who read no answer until they have sent it.

        A connection that is closed before that is reset, and its answer lost.
        """
        if self._is_complete or self.is_stream or self._is_late:
            return
        if self.header("expect").lower() == "100-continue" and not self._has_begun:
            return  # the caller waits
        left = _DISCARD_SHARE * self._limits.message_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self._is_complete and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._is_complete = not message.get("more_body", False)

    async def answer(
        self,
        status: int,
        body: bytes,
        headers: tuple[tuple[str, str], ...] = (),
        content_type: str = "application/json",
    ) -> None:
        """Sends a whole answer."""
        given = (("content-type", content_type), *headers)
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode("latin-1")) for name, value in given],
            }
        )
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def fail(self, error: Exception, identity: str = "") -> None:
        """Sends the answer for an error, with the request's id if there is one."""
        answer = error_answer(error)
        headers = answer.headers
        if identity:
            headers = (*headers, (REQUEST_ID_KEY, identity))
        await self.answer(answer.status, answer.body, headers)

    def end(self) -> None:
        """The answer has left, or there is none."""
        self.let_go()
        self.context.end()


current: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange that the running task answers."""
