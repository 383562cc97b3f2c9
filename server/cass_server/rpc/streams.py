"""Streams of mask requests: each has a thread that waits, and computes in a slot of the pool."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

import grpc

from cass_server.config.limits import Limits
from cass_server.exceptions import Overloaded, Stopping
from cass_server.observability.call import Call, Metadata
from cass_server.rpc.answerer import Answerer
from cass_server.rpc.delivery import Delivery
from cass_server.rpc.handlers import Handler, OnPool
from cass_server.rpc.receiving import ReadAheadPool
from cass_server.rpc.requests import MaskReader, Reader
from cass_server.rpc.status import code_of, entry_of
from cass_server.scheduling.admission import Caller

_log = logging.getLogger(__name__)

Send: TypeAlias = Callable[[bytes | None], None]
"""Sends an answer, or with None ends the stream; returns when the transport has taken it."""


class StreamKind(NamedTuple):
    """An RPC whose calls are streams: its name, and how it reads and what it sends for an error."""

    method: str
    read: Reader
    entry_of: Callable[[Exception, bytes], bytes]
    """The entry for an error that a message has led to."""


class MaskStreams:
    """Answers streams of requests, those of each one after the other.

    ``open`` is for the calls of ``StreamMasks``.
    """

    def __init__(self, answerer: Answerer, limits: Limits, delivery: Delivery) -> None:
        self._answerer = answerer
        self._limits = limits
        self._delivery = delivery
        self._streams: set[_Stream] = set()
        # Those admitted, of which the newest have no thread yet; and of each caller.
        self._open = 0
        self._open_of: Counter[Caller] = Counter()
        self._ended = threading.Condition()
        self._stopping = False
        self._pool = ReadAheadPool(limits.streams, self._close)
        read = MaskReader(limits, answerer.engine.small_fill, streamed=True)
        self.open = self.opener(StreamKind("StreamMasks", read, lambda error, _: entry_of(error)))

    def opener(self, kind: StreamKind) -> Callable[[Metadata], Handler]:
        """What returns the handler of a stream of a kind, as `Opener`s do."""
        handler: Handler = grpc.stream_stream_rpc_method_handler(
            OnPool(partial(self._run, kind), self._pool, sends=True)
        )
        return partial(self._open_with, handler)

    def _open_with(self, handler: Handler, metadata: Metadata) -> Handler:
        """The handler; raises `Overloaded` if there are as many streams as there may be."""
        caller, share = self._answerer.caller(metadata), self._limits.share_of(self._limits.streams)
        with self._ended:
            if self._open >= self._limits.streams:
                raise Overloaded("streams", self._limits.streams, 1.0)
            if caller and self._open_of[caller] >= share:
                raise Overloaded("streams of one caller", share, 1.0)
            self._open += 1
            self._open_of[caller] += 1
        return handler

    def _close(self, metadata: Metadata) -> None:
        """Count a stream no more."""
        with self._ended:
            self._open -= 1
            self._open_of -= Counter((self._answerer.caller(metadata),))
            self._ended.notify_all()

    def stop(self) -> None:
        """End all streams, those with a request under way once it is answered."""
        self._stopping = True
        for stream in self._streams.copy():  # at once, while others come and go
            try:
                stream.stop()
            except Exception:
                # What a peer that is gone leaves behind concerns its stream alone.
                _log.debug("a stream cannot be ended", exc_info=True)

    def wait_ended(self, seconds: float) -> None:
        """Return once all streams have ended, or after so many seconds."""
        with self._ended:
            self._ended.wait_for(lambda: not self._open, seconds)

    def _run(
        self,
        kind: StreamKind,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Send,
    ) -> None:
        """One request after the other; what is written ahead waits in the transport."""
        stream = _Stream(context, send)
        metadata = context.invocation_metadata() or ()
        caller = self._answerer.caller(metadata, context.peer().encode())
        self._streams.add(stream)
        try:
            if self._stopping:
                stream.stop()
            for data in messages:
                if not stream.turn(busy=True):
                    return
                with self._answerer.call(kind.method, metadata, caller) as call:
                    self._answer(kind, call, data, context, send)
                del data  # which a stream that waits would keep
                self._delivery.wait_taken(context)
                if not stream.turn(busy=False):
                    return
            self._delivery.wait_taken(context)
            stream.end()
        except grpc.RpcError:
            return  # the caller is gone
        finally:
            self._streams.discard(stream)
            self._close(metadata)

    def _answer(
        self,
        kind: StreamKind,
        call: Call,
        data: bytes,
        context: grpc.ServicerContext,
        send: Send,
    ) -> None:
        answerer = self._answerer
        call.received = len(data)
        answerer.pool.acquire()
        try:
            message = answerer.answer(call, kind.read, data, context, streamed=True)
            code = "OK"
        except Exception as error:
            code = code_of(error).name
            answerer.report(call, error)
            message = kind.entry_of(error, data)
        finally:
            answerer.pool.release()
        call.sent = len(message)
        answerer.deadlines.start(context.cancel, self._limits.send_seconds)
        send(message)
        if answerer.deadlines.stop(context.cancel) and context.is_active():
            call.code = code


class _Stream:
    """The end of a stream, which may come from the caller, or from another thread."""

    def __init__(self, context: grpc.ServicerContext, send: Send) -> None:
        self._context = context
        self._send = send
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_stopping = False
        self._has_ended = False

    def turn(self, *, busy: bool) -> bool:
        """A request begins, or is answered; whether the stream goes on."""
        with self._lock:
            self._is_busy = busy
            if self._is_stopping and not busy:
                self._end()
            return not self._has_ended

    def stop(self) -> None:
        """End it with UNAVAILABLE, now or when its request is answered."""
        with self._lock:
            self._is_stopping = True
            if not self._is_busy:
                self._end()

    def end(self) -> None:
        """There are no more requests."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_stopping:
            self._context.set_code(grpc.StatusCode.UNAVAILABLE)
            self._context.set_details(str(Stopping()))
        self._send(None)
