"""Calls that come over HTTP, answered by the same request layer as gRPC's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cass_server.exceptions import Overloaded, Rejection, Stopping, Unauthenticated
from cass_server.http.exchange import Exchange
from cass_server.observability.call import Call, CallContext, Metadata
from cass_server.observability.methods import COMPUTED_METHODS
from cass_server.observability.request_metadata import server_timing, wants_timings
from cass_server.rpc.answerer import Answerer, gone
from cass_server.rpc.requests import Reader, Request
from cass_server.rpc.status import clear_tracebacks, code_of
from cass_server.scheduling.admission import Caller

# What JSON takes at most once it is read, for each of its bytes: of short numbers, measured.
JSON_SHARE = 16
# Larger texts take tens of milliseconds.
_LARGE_JSON_BYTES = 1 << 18


class Calls:
    """Admits calls and computes their answers, in threads of the compute pool.

    ``allows`` says by the headers whether a caller may; None lets everybody.
    """

    def __init__(self, answerer: Answerer, allows: Callable[[Metadata], bool] | None) -> None:
        self.answerer = answerer
        self.limits = answerer.admission.limits
        self._allows = allows
        self._closed = False
        self._streams: Counter[Caller] = Counter()

    def close(self) -> None:
        """Refuse all calls from now on."""
        self._closed = True

    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def check(self, method: str, exchange: Exchange) -> None:
        """Decides on a call before its body is read; raises a `Rejection`."""
        if self._closed:
            raise Stopping
        if self._allows is not None and not self._allows(exchange.headers):
            raise Unauthenticated
        if method in COMPUTED_METHODS:
            self.answerer.admission.check_room()

    def refuse(self, method: str, exchange: Exchange, error: Exception) -> str:
        """Counts and logs a call that ends before it is computed; the request's id."""
        with self.answerer.call(method, exchange.headers) as call:
            call.code = code_of(error).name
            return self.answerer.report(call, error)

    def note(self, method: str, exchange: Exchange, received: int, sent: int) -> None:
        """Counts a call that is answered without being computed."""
        with self.answerer.call(method, exchange.headers) as call:
            call.code, call.received, call.sent = "OK", received, sent

    @contextmanager
    def stream(self, exchange: Exchange) -> Iterator[None]:
        """A stream is open; raises `Overloaded` if there are as many as there may be."""
        limit, caller = self.limits.streams, self.answerer.caller(exchange.headers)
        share = self.limits.share_of(limit)
        if self._streams.total() >= limit:
            raise Overloaded("streams", limit, 1.0)
        if caller and self._streams[caller] >= share:
            raise Overloaded("streams of one caller", share, 1.0)
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams -= Counter((caller,))

    async def compute(
        self, method: str, read: Reader, data: bytes, exchange: Exchange, *, share: int = 1
    ) -> bytes:
        """The answer to a message, which takes ``share`` times its bytes once it is read.

        Raises:
            Failed: there is none, for the reason and with the request's id that it has.
        """
        answerer, context = self.answerer, exchange.context
        exchange.let_go()  # since the call counts them
        try:
            call = answerer.admit(
                method, exchange.headers, exchange.peer, exchange.started, share * len(data)
            )
        except Rejection as error:
            raise Failed(error, self.refuse(method, exchange, error)) from None
        if share > 1 and len(data) > _LARGE_JSON_BYTES:
            read = self._in_turn(read, context)
        message = await self._in_pool(
            call, exchange, lambda: answerer.answer(call, read, data, context), len(data)
        )
        if wants_timings(exchange.headers):
            exchange.more_headers += server_timing(call.queue, call.compute, call.encode)
        return message

    async def compute_next(
        self, method: str, read: Reader, data: bytes, exchange: Exchange
    ) -> bytes:
        """As `compute`, of a message of a stream, which waits for room."""
        answerer = self.answerer
        exchange.let_go()
        caller = answerer.caller(exchange.headers, exchange.peer)
        call = answerer.call(method, exchange.headers, caller)
        return await self._in_pool(
            call,
            exchange,
            lambda: answerer.answer(call, read, data, exchange.context, streamed=True),
            len(data),
        )

    def _in_turn(self, read: Reader, context: CallContext) -> Reader:
        """The reader of what takes long to read, so that others have a slot meanwhile."""

        def check() -> None:
            if not context.is_active() or context.time_remaining() <= 0:
                raise gone(context)

        def read_heavy(data: bytes) -> Request:
            with self.answerer.pool.heavy(check):
                return read(data)

        return read_heavy

    async def _in_pool(
        self, call: Call, exchange: Exchange, answer: Callable[[], bytes], size: int
    ) -> bytes:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()

        def settle(result: bytes | None, error: Exception | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(result or b"")
                else:
                    future.set_exception(error)

        def run() -> None:
            result: bytes | None = None
            failed: Exception | None = None
            with call:
                call.received = size
                try:
                    result = answer()
                    call.code, call.sent = "OK", len(result)
                except Exception as error:
                    call.code = code_of(error).name
                    failed = Failed(error, self.answerer.report(call, error))
                    clear_tracebacks(error)
            loop.call_soon_threadsafe(settle, result, failed)

        try:
            self.answerer.pool.submit(run)
        except Exception as error:  # no thread, or no memory
            with call:
                call.code = code_of(error).name
                raise Failed(error, self.answerer.report(call, error)) from None
        try:
            return await future
        except asyncio.CancelledError:
            exchange.context.cancel()
            raise


class Failed(Exception):
    """A call has no answer, which has been counted and logged.

    Attributes:
        cause: why.
        identity: the request's id.
    """

    def __init__(self, cause: Exception, identity: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.identity = identity
