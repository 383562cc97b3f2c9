"""The RPCs: a request is let in, read, computed here or in a thread, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

import grpc

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.admission import Admission, Overloaded, Ticket
from cass_server.batcher import Batcher, EngineBroken, Expired
from cass_server.compute import Done, compute, compute_in_batch
from cass_server.engine import Engine
from cass_server.errors import entry_of, forget_frames, name_of, status_of
from cass_server.gate import Gate, Handler, say_farewell
from cass_server.jobs import MaskJob, MaskReader, Reader, read_info, read_loss
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.pace import Pace
from cass_server.request_id import KEY, RequestIds
from cass_server.timings import server_timing
from cass_server.traces import Traces
from cass_server.turn import Turn

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["CassService"].full_name

# A larger message is read in a thread: parsing one takes 0.1 ms a MiB and up.
_QUICK_BYTES = 1 << 18
# Beside the one request that is under way by then; see `Turn`.
_TURN_SECONDS = 1e-3
# How long a call that cannot be read from or written to may turn out to be a caller who has gone.
_GONE_SECONDS = 0.05

_log = logging.getLogger(__name__)


class CassService:
    """Answers requests with an engine, within limits.

    What is quick is computed on the event loop, a little in each turn of it: handing it to a thread
    would cost as much again. All else is read and computed in threads, and the loop stays free.

    Args:
        engine: where to compute.
        limits: the largest request taken.
        executor: the threads.
        admission: how much may be under way.
        metrics: what is counted.
        batcher: computes mask requests together, if given.
        traces: what is told of each request, if anything.
        give_up: called when the engine can compute nothing any more.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        executor: Executor,
        admission: Admission,
        metrics: Metrics,
        *,
        batcher: Batcher | None = None,
        traces: Traces | None = None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._executor = executor
        self._admission = admission
        self._metrics = metrics
        self._batcher = batcher
        self._traces = traces
        self._give_up = give_up
        # Of effort; a batch is better than that.
        self._most_at_once = -1 if batcher is not None else engine.quick_effort
        self._is_on_gpu = engine.device != "cpu"
        self._read_entry = MaskReader(limits, entry=True)
        self._ids = RequestIds()
        self._turn = Turn(_TURN_SECONDS)
        self._pace = Pace(admission.is_full)
        self._idle_streams: set[Context] = set()
        self._stopping = False

    def add_to(self, gate: Gate) -> None:
        """Register the RPCs.

        Not by the generated function: that parses requests on the event loop, and answers bytes
        that are no message with UNKNOWN and a traceback in the log. All are registered as streams
        of requests, which on the wire is the same: so a call that there is no room for is turned
        away before its message is read.
        """
        unary = grpc.stream_unary_rpc_method_handler
        computed: dict[str, Reader] = {
            "GenerateMask": MaskReader(self._limits),
            "ComputeLoss": partial(read_loss, limits=self._limits),
        }
        handlers: dict[str, Handler] = {
            "StreamMasks": grpc.stream_stream_rpc_method_handler(self._stream_masks),
            "GetServerInfo": unary(self._server_info),
        }
        timed: dict[str, Handler] = {}
        for name, read in computed.items():
            handlers[name] = unary(self._unary(name, read))
            timed[name] = unary(self._unary(name, read, timed=True))
        gate.add_registered_method_handlers(SERVICE_NAME, handlers)
        gate.add_timed(SERVICE_NAME, timed)

    async def _server_info(self, _: Any, context: Context) -> bytes:
        started = time.perf_counter()
        self._metrics.started()
        code, received, answer = "CANCELLED", 0, b""
        try:
            data = await _message(context)
            received = len(data)
            read_info(data, self._limits)
            answer = pb.GetServerInfoResponse(
                version=__version__, device=self._engine.device, limits=self._limits.message()
            ).SerializeToString()
            code = "OK"
        except Exception as error:
            code, data = name_of(error), b""
            await self._refuse("GetServerInfo", error, context)
        finally:
            self._finished("GetServerInfo", code, started, received, answer, context)
        return answer

    def _unary(
        self, method: str, read: Reader, *, timed: bool = False
    ) -> Callable[[Any, Context], Any]:
        async def answer(_: Any, context: Context) -> bytes:
            started = time.perf_counter()
            self._metrics.started()
            # What a cancelled task ends with.
            code, received, message, done = "CANCELLED", 0, b"", None
            arrived = started
            try:
                self._pace.seen()
                ticket = self._admission.enter()
                # The answer is sent by then, or will never be.
                context.add_done_callback(ticket.leave)  # type: ignore[arg-type]
                await self._pace.turn()
                data = await _message(context)
                received = len(data)
                arrived = time.perf_counter()
                done = await self._answer(method, data, read, ticket, context, arrived)
                message = done.message
                if timed:
                    queue = arrived - started + done.wait
                    context.set_trailing_metadata(server_timing(queue, done.compute, done.encode))
                code = "OK"
            except Exception as error:
                code, data = name_of(error), b""
                await self._refuse(method, error, context)
            finally:
                self._finished(method, code, started, received, message, context, done, arrived)
            return message

        return answer

    async def _stream_masks(self, _: Any, context: Context) -> None:
        """One request after the other; what is written ahead waits in the transport."""
        while not self._stopping:
            self._idle_streams.add(context)
            try:
                data = await context.read()
            finally:
                self._idle_streams.discard(context)
            if data is grpc.aio.EOF:
                return
            started = time.perf_counter()
            self._metrics.started()
            code, message, done, ticket = "CANCELLED", b"", None, None
            arrived = started
            try:
                ticket = self._admission.try_enter() or await self._admission.enter_in_turn()
                try:
                    arrived = time.perf_counter()
                    done = await self._answer(
                        "StreamMasks",
                        data,
                        self._read_entry,
                        ticket,
                        context,
                        arrived,
                        in_turn=True,
                    )
                    message, outcome = done.message, "OK"
                except Exception as error:
                    outcome = name_of(error)
                    self._tell("StreamMasks", error, context)
                    message = entry_of(error)
                await _write(context, message)
                code = outcome
            finally:
                if ticket is not None:
                    ticket.leave()
                self._finished(
                    "StreamMasks", code, started, len(data), message, context, done, arrived
                )
            data, message, done = b"", b"", None  # which a stream that waits would keep
        await say_farewell(None, context)

    async def stop_streams(self) -> None:
        """End all streams, those with a request under way once it is answered."""
        self._stopping = True
        for context in tuple(self._idle_streams):
            # What is raised is for the stream's own task, whose reading then ends with it.
            with contextlib.suppress(grpc.aio.AbortError):
                await say_farewell(None, context)

    async def _answer(
        self,
        method: str,
        data: bytes,
        read: Reader,
        ticket: Ticket,
        context: Context,
        arrived: float,
        *,
        in_turn: bool = False,
    ) -> Done:
        """The answer to a request that has been let in."""
        done = None
        if len(data) <= _QUICK_BYTES:
            if self._turn.is_over:
                await self._turn.wait()
            with self._turn:
                job = read(data)
                if job.effort <= self._most_at_once and self._admission.try_hold(
                    ticket, len(data) + job.answer_bytes
                ):
                    done = compute(job, self._engine, arrived, _expiry(context))
        else:
            job = await self._in_thread(read, data)
        if done is None:
            size = len(data) + job.answer_bytes
            if in_turn:
                await self._admission.hold_in_turn(ticket, size)
            else:
                self._admission.hold(ticket, size)
            expires = _expiry(context)
            if self._batcher is not None and isinstance(job, MaskJob):
                done = await compute_in_batch(job, self._batcher, arrived, expires)
            else:
                done = await self._in_thread(compute, job, self._engine, arrived, expires)
        if self._is_on_gpu:
            self._metrics.gpu_memory(self._engine.gpu_memory_bytes())
        return done

    def _finished(
        self,
        method: str,
        code: str,
        started: float,
        received: int,
        message: bytes,
        context: Context,
        done: Done | None = None,
        arrived: float = 0.0,
    ) -> None:
        """Count a request that is over, and tell of it."""
        seconds = time.perf_counter() - started
        self._metrics.finished(method, code, seconds, received, len(message))
        if code == "CANCELLED" and not message:
            self._metrics.rejected("cancelled")
        queue = 0.0
        if done is not None:
            # All that came before: for its turn, for the message, and for a thread.
            queue = arrived - started + done.wait
            self._metrics.computed(method, queue, done.compute, done.encode, *done.work)
        if self._traces is not None:
            metadata = context.invocation_metadata() or ()
            self._traces.record(method, code, metadata, seconds, done, queue)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    async def _refuse(self, method: str, error: Exception, context: Context) -> None:
        """End the call with the status for an error.

        gRPC keeps what `abort` raises in a cycle, and with it the caller's frame and the error:
        they must not hold the message, which would stay until the garbage is collected.
        """
        request_id = self._tell(method, error, context)
        forget_frames(error)
        status = status_of(error)
        metadata = (*(status.trailing_metadata or ()), (KEY, request_id))
        await context.abort(status.code, status.details, metadata)

    def _tell(self, method: str, error: Exception, context: Context) -> str:
        """Log and count an error; the request's id."""
        request_id = self._ids.of(context.invocation_metadata() or ())
        told = {"method": method, "code": name_of(error), "request_id": request_id}
        if isinstance(error, InvalidRequest):
            _log.warning("request refused", extra={**told, "reason": str(error)})
        elif isinstance(error, Overloaded):
            self._metrics.rejected(error.reason)
            # A flood of requests is not to be a flood of lines.
            _log.debug("request refused", extra={**told, "reason": str(error)})
        elif isinstance(error, Expired):
            self._metrics.rejected("deadline")
            _log.debug("request dropped", extra=told)
        else:
            # The caller is told nothing of the inside; the log has it all.
            _log.error("request failed", extra=told, exc_info=error)
            if isinstance(error, EngineBroken):
                self._give_up()
        return request_id


def _expiry(context: Context) -> float | None:
    """When the caller's deadline passes, on the monotonic clock."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def _message(context: Context) -> bytes:
    """The one message of a call.

    Raises:
        InvalidRequest: there is none.
    """
    data = await context.read()
    if data is grpc.aio.EOF:
        await asyncio.sleep(_GONE_SECONDS)  # and be cancelled
        raise InvalidRequest("request", "is missing")
    message: bytes = data
    return message


async def _write(context: Context, message: bytes) -> None:
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        await asyncio.sleep(_GONE_SECONDS)  # and be cancelled, before gRPC logs it as our error
        raise
