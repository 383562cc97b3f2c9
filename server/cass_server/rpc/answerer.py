"""Computes the answer to a request, and records the call however it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from cass.contract import REQUEST_ID_KEY
from cass_core.errors import InvalidRequest
from cass_core.inputs import MaskInputs
from cass_server.engines.base import Engine
from cass_server.exceptions import (
    Cancelled,
    EngineBroken,
    Expired,
    NotCompiled,
    Overloaded,
    Rejection,
)
from cass_server.observability.call import Call, CallContext, Metadata
from cass_server.observability.metrics import Metrics
from cass_server.observability.request_metadata import request_id, token_of
from cass_server.observability.tracing import Traces
from cass_server.rpc.requests import MaskRequest, Masks, Reader, Request
from cass_server.rpc.status import clear_tracebacks, code_of, status_of
from cass_server.scheduling.admission import SMALL_BYTES, Admission, Caller
from cass_server.scheduling.batcher import Batcher, BatchRequest
from cass_server.scheduling.compute_pool import ComputePool
from cass_server.scheduling.deadlines import Deadlines

_log = logging.getLogger(__name__)


class Answerer:
    """What single calls and streams have in common.

    Callers are told apart by their tokens if ``by_token``, else by their connections. ``on_fatal``
    is called when the engine can compute nothing any more.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        deadlines: Deadlines,
        pool: ComputePool,
        metrics: Metrics,
        *,
        batcher: Batcher | None = None,
        traces: Traces | None = None,
        by_token: bool = False,
        on_fatal: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.admission = admission
        self.deadlines = deadlines
        self.pool = pool
        self.metrics = metrics
        self._batcher = batcher
        self._traces = traces
        self._by_token = by_token
        self._on_fatal = on_fatal
        self._lock = threading.Lock()

    def call(self, method: str, metadata: Metadata, caller: Caller = "") -> Call:
        """The record of a request that comes now, whatever else is in flight."""
        self.metrics.started()
        return Call(method, metadata, time.perf_counter(), self._ended, caller=caller)

    def admit(
        self, method: str, metadata: Metadata, peer: bytes, started: float, size: int
    ) -> Call:
        """As `call`, among the requests in flight, and with the bytes of its message.

        Raises:
            Overloaded: there is no room.
        """
        caller = self.caller(metadata, peer)
        held = size if size > SMALL_BYTES else 0
        if held:
            self.admission.hold(held, caller)
        try:
            self.admission.enter(caller)
        except Overloaded:
            if held:
                self.admission.drop(held, caller)
            raise
        self.metrics.started()
        call = Call(method, metadata, started, self._ended, caller=caller, is_admitted=True)
        call.held, call.holders = held, bool(held)
        return call

    def caller(self, metadata: Metadata, peer: bytes = b"") -> Caller:
        """Who calls, as `Admission` counts callers; gRPC has one name for all of a Unix socket."""
        if self._by_token:
            return token_of(metadata)
        return b"" if peer.startswith(b"unix:") else peer

    def answer(
        self,
        call: Call,
        read: Reader,
        data: bytes,
        context: CallContext,
        *,
        streamed: bool = False,
    ) -> bytes:
        """Read a request and compute its answer, in a thread that has a slot."""
        # gRPC may report late that the deadline has passed.
        if not context.is_active() or context.time_remaining() <= 0:
            raise gone(context)
        request = read(data)
        size = len(data) + request.answer_bytes
        if size > SMALL_BYTES:
            (self._hold_in_turn if streamed else self._hold)(call, size, context)
        if request.is_heavy:
            with self.pool.heavy(_checkpoint(context)):
                return self._compute(call, request, context)
        return self._compute(call, request, context)

    def _compute(self, call: Call, request: Request, context: CallContext) -> bytes:
        call.begun = time.perf_counter()
        while True:
            try:
                result = self._result(request, context)
                break
            except NotCompiled as error:
                compile = error.compile
            with self.pool.lent():
                compile()
            _checkpoint(context)()
        computed = time.perf_counter()
        message = request.encode(result)
        call.compute = computed - call.begun
        call.encode = time.perf_counter() - computed
        call.size, call.without_patch = request.size, request.without_patch
        return message

    def _result(self, request: Request, context: CallContext) -> Any:
        if isinstance(request, MaskRequest):
            return request.compute(self._fill, context)
        return self.engine.losses(request.inputs, checkpoint=_checkpoint(context))

    def _fill(
        self,
        inputs: MaskInputs,
        out: Masks,
        context: CallContext,
    ) -> None:
        """Compute masks, alone or with those of requests that wait at the same time."""
        masks, owners, weights = out
        if weights:  # which may depend on all boxes of the request, so that it is computed alone
            checkpoint = _checkpoint(context)
            self.engine.masks(inputs, masks, owners, checkpoint=checkpoint, weights=weights)
            return
        if self._batcher is None:
            self.engine.masks(inputs, masks, owners, checkpoint=_checkpoint(context))
            return
        # The slot is for others: this thread waits for the batch.
        with self.pool.lent():
            expires = time.monotonic() + context.time_remaining()
            self._batcher.fill(BatchRequest(inputs, masks, owners, expires, context.is_active))

    def _hold(self, call: Call, size: int, context: CallContext) -> None:
        """Count the bytes of a request, which this thread has, and gRPC until the answer is taken.

        Raises `Overloaded` if there is no room for them.
        """
        self.admission.hold(size, call.caller, call.held)
        call.held, call.holders = size, 2
        if not context.add_callback(lambda: self._let_go(call)):
            self._let_go(call)

    def _hold_in_turn(self, call: Call, size: int, context: CallContext) -> None:
        """As `_hold`, once there is room, which the sender feels as backpressure.

        Raises `Overloaded` if memory is short: a message that waits is counted nowhere.
        """
        admission = self.admission

        def may_wait() -> bool:
            return context.is_active() and not admission.is_short

        if not admission.try_hold(size, call.caller):
            with self.pool.lent():
                has_room = admission.wait_to_hold(size, may_wait, call.caller)
            if not has_room:
                raise admission.no_room() if context.is_active() else gone(context)
        call.held, call.holders = size, 1

    def _let_go(self, call: Call) -> None:
        """One of the holders of a call's bytes needs them no more; the last one gives them back."""
        with self._lock:
            call.holders -= 1
            is_last = not call.holders
        if is_last:
            self.admission.drop(call.held, call.caller)

    def _ended(self, call: Call) -> None:
        if call.holders:
            self._let_go(call)
        if call.is_admitted:
            self.admission.leave(time.perf_counter() - call.started, call.caller)
        self.metrics.finished(call)
        if self._traces is not None:
            self._traces.record(call)

    def refuse(self, call: Call, error: Exception, context: grpc.ServicerContext) -> None:
        """End a call with the status for an error, which keeps no frame from here on."""
        status = self.refusal(call, error)
        clear_tracebacks(error)
        context.abort_with_status(status)

    def refusal(self, call: Call, error: Exception) -> grpc.Status:
        """Count and log an error that ends a call, and the status to end it with."""
        call.code = code_of(error).name
        identity = (REQUEST_ID_KEY, self.report(call, error))
        status = status_of(error)
        return _Status(status.code, status.details, (*(status.trailing_metadata or ()), identity))

    def report(self, call: Call, error: Exception) -> str:
        """Log and count an error; the request's id."""
        identity = request_id(call.metadata)
        extra = {"method": call.method, "code": code_of(error).name, "request_id": identity}
        if isinstance(error, InvalidRequest):
            _log.warning("request refused", extra={**extra, "reason": str(error)})
        elif isinstance(error, Rejection) and not isinstance(error, EngineBroken):
            if error.reason:
                self.metrics.rejected(error.reason)
            # A flood of requests is not to be a flood of lines.
            _log.debug("request refused", extra={**extra, "reason": str(error)})
        else:
            # The caller learns nothing of the inside; the log has it all.
            _log.error("request failed", extra=extra, exc_info=error)
            if isinstance(error, EngineBroken):
                self._on_fatal()
        return identity


def gone(context: CallContext) -> Rejection:
    """Why a call is not active any more."""
    if context.time_remaining() <= 0:
        return Expired("the deadline passed before the request was computed")
    return Cancelled("the caller is gone")


def _checkpoint(context: CallContext) -> Callable[[], None]:
    """Ends a computation whose caller does not wait any more, or that the drain cannot wait for."""

    def check() -> None:
        # gRPC may report late that the deadline has passed.
        if not context.is_active() or context.time_remaining() <= 0:
            raise gone(context)

    return check


class _Status(grpc.Status):
    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        self.code, self.details, self.trailing_metadata = code, details, metadata
