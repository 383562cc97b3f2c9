"""The RPCs: single calls, in threads of the compute pool, and the admission of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import grpc

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.config.limits import Limits
from cass_server.exceptions import Cancelled, Rejection
from cass_server.observability.call import Call, Metadata
from cass_server.rpc.answerer import Answerer, gone
from cass_server.rpc.handlers import Handler, OnPool
from cass_server.rpc.receiving import Received
from cass_server.rpc.requests import MaskReader, Reader, read_info, read_loss
from cass_server.rpc.server_timing import server_timing, wants_timings
from cass_server.rpc.status import status_of
from cass_server.rpc.streams import MaskStreams

Opener: TypeAlias = Callable[[Metadata], Handler]
"""Admits a call, and returns its handler; raises a `Rejection` if there is no room."""


# How long a call that brings no message may turn out to be a caller who has gone.
_GONE_SECONDS = 0.05


class CassService:
    """Answers requests within limits.

    Args:
        answerer: computes.
        limits: the largest request taken, and how long a caller may take.
        streams: answer the calls of ``StreamMasks``.
        helper_pool: the threads of ``GetServerInfo``, which is answered however full the server is.
    """

    def __init__(
        self,
        answerer: Answerer,
        limits: Limits,
        streams: MaskStreams,
        helper_pool: ThreadPoolExecutor,
    ) -> None:
        self._answerer = answerer
        self._limits = limits
        self._streams = streams
        self._info_handler: Handler = grpc.stream_unary_rpc_method_handler(
            OnPool(self._info, helper_pool)
        )

    def openers(self) -> Mapping[str, Opener]:
        """The RPCs by name.

        All take streams of requests, which on the wire is the same: so a call is refused before its
        message is read, and messages are read here.
        """
        read_mask = MaskReader(self._limits, self._answerer.engine.small_fill)
        read = partial(read_loss, limits=self._limits)
        return {
            "GenerateMask": self._unary_opener("GenerateMask", read_mask),
            "ComputeLoss": self._unary_opener("ComputeLoss", read),
            "StreamMasks": self._streams.open,
            "GetServerInfo": lambda _: self._info_handler,
        }

    def refused(self, method: str, metadata: Metadata, error: Rejection) -> grpc.Status:
        """Counts and logs a refused call; returns the status to end it with."""
        call = Call(method, metadata, time.perf_counter())
        self._answerer.metrics.started()
        status = self._answerer.refusal(call, error)
        self._answerer.finished(call)
        return status

    def refused_elsewhere(self, error: Rejection) -> grpc.Status:
        """As `refused`, of a call that is for no method of this service."""
        if error.reason:
            self._answerer.metrics.rejected(error.reason)
        return status_of(error)

    def refused_by_grpc(self, method: str) -> None:
        """Count a call that gRPC refuses, since there is no room: in a flood, nothing more."""
        self._answerer.metrics.refused(method)

    def _unary_opener(self, name: str, read: Reader) -> Opener:
        handler: Handler = grpc.stream_unary_rpc_method_handler(_Unary(self, name, read))
        admission = self._answerer.admission

        def open_unary(_: Metadata) -> Handler:
            admission.check_room()
            return handler

        return open_unary

    def admit(self, name: str, metadata: Metadata) -> grpc.Status | None:
        """Count a single call as in flight, or give the status to end it with."""
        try:
            self._answerer.admission.enter()
        except Rejection as error:
            return self.refused(name, metadata, error)
        self._answerer.metrics.started()
        return None

    def answer(
        self,
        call: Call,
        read: Reader,
        data: bytes | None,
        context: grpc.ServicerContext,
        *,
        in_time: bool = True,
    ) -> bytes:
        """The answer to a single call that was admitted."""
        answerer = self._answerer
        message: bytes = b""
        try:
            if data is None:
                raise _missing(context) if in_time else Cancelled("no message came in time")
            call.received = len(data)
            message = answerer.answer(call, read, data, context)
            if wants_timings(call.metadata):
                context.set_trailing_metadata(server_timing(call.queue, call.compute, call.encode))
            if call.holders:
                answerer.deadlines.start(context.cancel, self._limits.send_seconds)
            if context.is_active():
                call.code, call.sent = "OK", len(message)
            else:  # gRPC may have noticed before the deadline was started
                answerer.deadlines.stop(context.cancel)
        except Exception as error:
            # gRPC keeps what `abort` raises in a cycle, and with it this frame: neither it nor the
            # error may hold the message, which would stay until the garbage is collected.
            data = message = b""
            answerer.refuse(call, error, context)
        finally:
            if call.holders:
                answerer.let_go(call)
            answerer.admission.leave(time.perf_counter() - call.started)
            answerer.finished(call)
        return message

    def _info(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        answerer = self._answerer
        call = Call("GetServerInfo", context.invocation_metadata() or (), time.perf_counter())
        answerer.metrics.started()
        try:
            with answerer.deadlines.within(context.cancel, self._limits.receive_seconds):
                data = next(messages, None)
            if data is None:
                raise _missing(context)
            read_info(data, self._limits)
            answer: bytes = pb.GetServerInfoResponse(
                version=__version__, device=answerer.engine.device, limits=self._limits.message()
            ).SerializeToString()
            call.code, call.received, call.sent = "OK", len(data), len(answer)
        except Exception as error:
            data = answer = b""
            answerer.refuse(call, error, context)
        finally:
            answerer.finished(call)
        return answer


class _Unary:
    """An RPC with one message; see `cass_server.rpc.receiving.Method`."""

    def __init__(self, service: CassService, name: str, read: Reader) -> None:
        self._service = service
        self._name = name
        self._read = read

    def admit(self, metadata: Metadata) -> grpc.Status | None:
        return self._service.admit(self._name, metadata)

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        metadata = context.invocation_metadata() or ()
        if isinstance(messages, Received):
            started, in_time, data = messages.started, messages.in_time, next(messages, None)
        else:  # of a gRPC that has no message first
            started, in_time, data = time.perf_counter(), True, next(messages, None)
            status = self.admit(metadata)
            if status is not None:
                context.abort_with_status(status)
        call = Call(self._name, metadata, started)
        return self._service.answer(call, self._read, data, context, in_time=in_time)


def _missing(context: grpc.ServicerContext) -> Exception:
    """Why a call brings no message."""
    # gRPC reports the end of the messages before it reports that the caller has gone.
    ended = threading.Event()
    if not context.add_callback(ended.set) or ended.wait(_GONE_SECONDS):
        return gone(context)
    return InvalidRequest("request", "is missing")
