"""The RPCs: single calls, in threads of the compute pool, and the admission of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

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
from cass_server.observability.request_metadata import server_timing, wants_timings
from cass_server.rpc.answerer import Answerer, gone
from cass_server.rpc.handlers import Handler, in_place
from cass_server.rpc.parsing import read_info
from cass_server.rpc.receiving import IS_SUPPORTED, Received
from cass_server.rpc.requests import MaskReader, Reader, read_loss
from cass_server.rpc.status import status_of
from cass_server.rpc.streams import MaskStreams

Opener: TypeAlias = Callable[[Metadata], Handler]
"""Returns the handler of a call by its metadata; raises a `Rejection` if there is no room."""

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
    helper_pool: Executor
    is_serving: Callable[[], bool]
    allows: Callable[[Metadata], bool] | None = None
    """Whether a caller may, by the metadata; None lets everybody."""


class Listener(Protocol):
    """Serves the same on another port."""

    def close(self) -> None:
        """Refuses all calls from now on."""

    def stop(self, seconds: float) -> None:
        """Stops listening; returns when all answers have left, or after so many seconds."""


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
        helper_pool: Executor,
        others: Sequence[Service] = (),
    ) -> None:
        self._answerer = answerer
        read_masks = MaskReader(limits, answerer.engine.small_fill)

        def info(data: bytes) -> bytes:
            read_info(data, limits)
            return server_info(answerer.engine.device, limits).SerializeToString()

        openers: Mapping[str, Opener] = {
            "GenerateMask": Unary("GenerateMask", read_masks, answerer).open,
            "ComputeLoss": Unary("ComputeLoss", partial(read_loss, limits=limits), answerer).open,
            "StreamMasks": streams.open,
            "GetServerInfo": Info("GetServerInfo", info, answerer, helper_pool).open,
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


def server_info(device: str, limits: Limits) -> pb.GetServerInfoResponse:
    """What `GetServerInfo` answers."""
    return pb.GetServerInfoResponse(
        version=__version__, device=device, limits=limits.message(), features=FEATURES
    )


class Info:
    """An RPC that computes nothing: answered where its message arrives, however full the server is.

    ``answer`` makes the serialized answer to a message; raises `InvalidRequest` or a `Rejection`.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[bytes], bytes],
        answerer: Answerer,
        helper_pool: Executor,
    ) -> None:
        self.name = name
        self._answer = answer
        self._answerer = answerer
        self.pool = in_place if IS_SUPPORTED else helper_pool
        self._handler: Handler = grpc.stream_unary_rpc_method_handler(self)

    def open(self, _: Metadata) -> Handler:
        """See `Opener`."""
        return self._handler

    def admit(self, *_: object) -> None:
        """It counts against no limit."""

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Answer a call."""
        answerer, answer = self._answerer, b""
        with answerer.call(self.name, context.invocation_metadata() or ()) as call:
            try:
                data = _first(messages, context, answerer)
                if data is None:
                    raise _missing(messages, context)
                answer = self._answer(data)
                call.code, call.received, call.sent = "OK", len(data), len(answer)
            except Exception as error:
                data = b""
                answerer.refuse(call, error, context)
        return answer


class Unary:
    """An RPC with one message, answered in the compute pool."""

    pool = None

    def __init__(self, name: str, read: Reader, answerer: Answerer) -> None:
        self.name = name
        self._read = read
        self._answerer = answerer
        self._handler: Handler = grpc.stream_unary_rpc_method_handler(self)

    def open(self, _: Metadata) -> Handler:
        """See `Opener`."""
        self._answerer.admission.check_room()
        return self._handler

    def admit(
        self, metadata: Metadata, peer: bytes, started: float, size: int
    ) -> Call | grpc.Status:
        """See `cass_server.rpc.receiving.OneMessage`."""
        try:
            return self._answerer.admit(self.name, metadata, peer, started, size)
        except Rejection as error:
            with self._answerer.call(self.name, metadata) as call:
                return self._answerer.refusal(call, error)

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Answer a call."""
        answerer = self._answerer
        data = _first(messages, context, answerer)
        if isinstance(messages, Received):
            call = messages.call
        else:  # of a gRPC that has no message first
            admitted = self.admit(
                context.invocation_metadata() or (),
                context.peer().encode(),
                time.perf_counter(),
                len(data or b""),
            )
            if not isinstance(admitted, Call):
                context.abort_with_status(admitted)
            call = admitted
        message: bytes = b""
        with call or answerer.call(self.name, context.invocation_metadata() or ()) as call:
            try:
                if data is None:
                    raise _missing(messages, context)
                call.received = len(data)
                message = answerer.answer(call, self._read, data, context)
                if wants_timings(call.metadata):
                    context.set_trailing_metadata(
                        server_timing(call.queue, call.compute, call.encode)
                    )
                if context.is_active():
                    call.code, call.sent = "OK", len(message)
            except Exception as error:
                # gRPC keeps what `abort` raises in a cycle, and with it this frame: neither it nor
                # the error may hold the message, which would stay until the garbage is collected.
                data = message = b""
                answerer.refuse(call, error, context)
        return message


def _first(
    messages: Iterator[bytes], context: grpc.ServicerContext, answerer: Answerer
) -> bytes | None:
    """The message of a call, None if there is none; a thread that waits for it does so in time."""
    if isinstance(messages, Received):
        return next(messages, None)
    seconds = answerer.admission.limits.receive_seconds
    with suppress(grpc.RpcError), answerer.deadlines.within(context.cancel, seconds):
        return next(messages, None)
    return None  # the call is cancelled


def _missing(messages: Iterator[bytes], context: grpc.ServicerContext) -> Exception:
    """Why a call brings no message."""
    if isinstance(messages, Received) and not messages.in_time:
        return Cancelled("no message came in time")
    # gRPC reports the end of the messages before it reports that the caller has gone.
    ended = threading.Event()
    if not context.add_callback(ended.set) or ended.wait(_GONE_SECONDS):
        return gone(context)
    return InvalidRequest("request", "is missing")
