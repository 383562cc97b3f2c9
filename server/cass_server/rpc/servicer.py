"""The RPCs: single calls, in threads of the compute pool, and the admission of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeAlias

import grpc
from google.protobuf.descriptor import FileDescriptor

from cass.contract import SERVICE_NAME
from cass.features import FEATURES
from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.config.limits import Limits
from cass_server.exceptions import Cancelled, Rejection
from cass_server.observability.call import Call, Metadata
from cass_server.rpc.answerer import Answerer, gone
from cass_server.rpc.handlers import Handler, OnPool
from cass_server.rpc.receiving import Received
from cass_server.rpc.request_metadata import server_timing, wants_timings
from cass_server.rpc.requests import MaskReader, Reader, read_info, read_loss
from cass_server.rpc.status import status_of
from cass_server.rpc.streams import MaskStreams

Opener: TypeAlias = Callable[[], Handler]
"""Returns the handler of a call; raises a `Rejection` if there is no room."""

# How long a call that brings no message may turn out to be a caller who has gone.
_GONE_SECONDS = 0.05


class Service(NamedTuple):
    """A service beside our own."""

    file: FileDescriptor
    name: str
    openers: Mapping[str, Opener]
    """By the names of its methods."""


class Host(NamedTuple):
    """What a `Service` is made with: that of the server, which its RPCs share with ours."""

    answerer: Answerer
    limits: Limits
    streams: MaskStreams
    helper_pool: ThreadPoolExecutor
    is_serving: Callable[[], bool]


class CassService:
    """The RPCs by path, in ``openers``.

    All take streams of requests, which on the wire is the same: so a call is refused before its
    message is read.
    """

    def __init__(
        self,
        answerer: Answerer,
        limits: Limits,
        streams: MaskStreams,
        helper_pool: ThreadPoolExecutor,
        others: Sequence[Service] = (),
    ) -> None:
        self._answerer = answerer
        read_masks = MaskReader(limits, answerer.engine.small_fill)

        def info(data: bytes) -> bytes:
            read_info(data, limits)
            return pb.GetServerInfoResponse(
                version=__version__,
                device=answerer.engine.device,
                limits=limits.message(),
                features=FEATURES,
            ).SerializeToString()

        openers: Mapping[str, Opener] = {
            "GenerateMask": Unary("GenerateMask", read_masks, answerer, limits).open,
            "ComputeLoss": Unary(
                "ComputeLoss", partial(read_loss, limits=limits), answerer, limits
            ).open,
            "StreamMasks": streams.open,
            "GetServerInfo": Info("GetServerInfo", info, answerer, limits, helper_pool).open,
        }
        services = (Service(pb.DESCRIPTOR, SERVICE_NAME, openers), *others)
        self.openers = {
            f"/{service.name}/{method}": opener
            for service in services
            for method, opener in service.openers.items()
        }

    def refused(self, path: str, metadata: Metadata, error: Rejection) -> grpc.Status:
        """Counts and logs a refused call; returns the status to end it with."""
        if path in self.openers:
            with self._answerer.call(path.rpartition("/")[2], metadata) as call:
                return self._answerer.refusal(call, error)
        if error.reason:
            self._answerer.metrics.rejected(error.reason)
        return status_of(error)

    def refused_by_grpc(self, path: str) -> None:
        """Counts a call that gRPC refuses, since there is no room: in a flood, nothing more."""
        self._answerer.metrics.refused(path.rpartition("/")[2])


class Info:
    """An RPC that computes nothing, in threads of its own, however full the server is.

    ``answer`` makes the serialized answer to a message; raises `InvalidRequest` or a `Rejection`.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[bytes], bytes],
        answerer: Answerer,
        limits: Limits,
        helper_pool: ThreadPoolExecutor,
    ) -> None:
        self.name = name
        self._answer = answer
        self._answerer = answerer
        self._limits = limits
        self._handler: Handler = grpc.stream_unary_rpc_method_handler(OnPool(self, helper_pool))

    def open(self) -> Handler:
        """See `Opener`."""
        return self._handler

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Answer a call."""
        answerer, answer = self._answerer, b""
        with answerer.call(self.name, context.invocation_metadata() or ()) as call:
            try:
                with answerer.deadlines.within(context.cancel, self._limits.receive_seconds):
                    data = next(messages, None)
                if data is None:
                    raise _missing(context)
                answer = self._answer(data)
                call.code, call.received, call.sent = "OK", len(data), len(answer)
            except Exception as error:
                data = b""
                answerer.refuse(call, error, context)
        return answer


class Unary:
    """An RPC with one message; see `cass_server.rpc.receiving.MessageFirst`."""

    def __init__(self, name: str, read: Reader, answerer: Answerer, limits: Limits) -> None:
        self._name = name
        self._read = read
        self._answerer = answerer
        self._send_seconds = limits.send_seconds
        self._handler: Handler = grpc.stream_unary_rpc_method_handler(self)

    def open(self) -> Handler:
        """See `Opener`."""
        self._answerer.admission.check_room()
        return self._handler

    def admit(self, metadata: Metadata, started: float) -> Call | grpc.Status:
        """See `cass_server.rpc.receiving.MessageFirst`."""
        try:
            return self._answerer.admit(self._name, metadata, started)
        except Rejection as error:
            with self._answerer.call(self._name, metadata) as call:
                return self._answerer.refusal(call, error)

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Answer a call."""
        data = next(messages, None)
        if isinstance(messages, Received):
            call, in_time = messages.call, messages.in_time
        else:  # of a gRPC that has no message first
            admitted = self.admit(context.invocation_metadata() or (), time.perf_counter())
            if not isinstance(admitted, Call):
                context.abort_with_status(admitted)
            call, in_time = admitted, True
        answerer = self._answerer
        message: bytes = b""
        with call:
            try:
                if data is None:
                    raise _missing(context) if in_time else Cancelled("no message came in time")
                call.received = len(data)
                message = answerer.answer(call, self._read, data, context)
                if wants_timings(call.metadata):
                    context.set_trailing_metadata(
                        server_timing(call.queue, call.compute, call.encode)
                    )
                if call.holders:
                    answerer.deadlines.start(context.cancel, self._send_seconds)
                if context.is_active():
                    call.code, call.sent = "OK", len(message)
                else:  # gRPC may have noticed before the deadline was started
                    answerer.deadlines.stop(context.cancel)
            except Exception as error:
                # gRPC keeps what `abort` raises in a cycle, and with it this frame: neither it nor
                # the error may hold the message, which would stay until the garbage is collected.
                data = message = b""
                answerer.refuse(call, error, context)
        return message


def _missing(context: grpc.ServicerContext) -> Exception:
    """Why a call brings no message."""
    # gRPC reports the end of the messages before it reports that the caller has gone.
    ended = threading.Event()
    if not context.add_callback(ended.set) or ended.wait(_GONE_SECONDS):
        return gone(context)
    return InvalidRequest("request", "is missing")
