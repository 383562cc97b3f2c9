"""The RPCs: a request is let in, read, computed here or in a thread, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import grpc

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.admission import Admission, Overloaded, Ticket
from cass_server.batcher import Batcher, BatchJob, EngineBroken, Expired
from cass_server.engine import Engine
from cass_server.errors import entry_of, forget_frames, name_of, status_of
from cass_server.gate import Gate, say_farewell
from cass_server.jobs import Job, MaskJob, Reader, read_info, read_loss, read_mask, read_stream_mask
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.pace import Pace
from cass_server.request_id import KEY, RequestIds
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
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._executor = executor
        self._admission = admission
        self._metrics = metrics
        self._batcher = batcher
        self._give_up = give_up
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
        gate.add_registered_method_handlers(
            SERVICE_NAME,
            {
                "GenerateMask": unary(self._unary("GenerateMask", read_mask)),
                "ComputeLoss": unary(self._unary("ComputeLoss", read_loss)),
                "StreamMasks": grpc.stream_stream_rpc_method_handler(self._stream_masks),
                "GetServerInfo": unary(self._server_info),
            },
        )

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
            self._finished("GetServerInfo", code, started, received, answer)
        return answer

    def _unary(self, method: str, read: Reader) -> Callable[[Any, Context], Any]:
        async def answer(_: Any, context: Context) -> bytes:
            started = time.perf_counter()
            self._metrics.started()
            # What a cancelled task ends with.
            code, received, message = "CANCELLED", 0, b""
            try:
                self._pace.seen()
                ticket = self._admission.enter()
                # The answer is sent by then, or will never be.
                context.add_done_callback(ticket.leave)  # type: ignore[arg-type]
                await self._pace.turn()
                data = await _message(context)
                received = len(data)
                message = await self._answer(method, data, read, ticket, context)
                code = "OK"
            except Exception as error:
                code, data = name_of(error), b""
                await self._refuse(method, error, context)
            finally:
                self._finished(method, code, started, received, message)
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
            code, message, ticket = "CANCELLED", b"", None
            try:
                ticket = await self._admission.enter_in_turn()
                try:
                    message = await self._answer(
                        "StreamMasks", data, read_stream_mask, ticket, context, in_turn=True
                    )
                    outcome = "OK"
                except Exception as error:
                    outcome = name_of(error)
                    self._tell("StreamMasks", error, context)
                    message = entry_of(error)
                await _write(context, message)
                code = outcome
            finally:
                if ticket is not None:
                    ticket.leave()
                self._finished("StreamMasks", code, started, len(data), message)
            data = message = b""  # which a stream that waits would keep
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
        *,
        in_turn: bool = False,
    ) -> bytes:
        """The serialized answer to a request that has been let in."""
        arrived = time.perf_counter()
        is_small = len(data) <= _QUICK_BYTES
        if is_small:
            await self._turn.wait()
            with self._turn:
                job = read(data, self._limits)
        else:
            job = await self._in_thread(read, data, self._limits)
        size = len(data) + job.answer_bytes()
        if in_turn:
            await self._admission.hold_in_turn(ticket, size)
        else:
            self._admission.hold(ticket, size)
        expires = _expiry(context)
        if self._batcher is not None and isinstance(job, MaskJob):
            done = await _compute_in_batch(job, self._batcher, arrived, expires)
        elif is_small and job.effort() <= self._engine.quick_effort:
            await self._turn.wait()
            with self._turn:
                done = _compute(job, self._engine, arrived, expires)
        else:
            done = await self._in_thread(_compute, job, self._engine, arrived, expires)
        self._metrics.timed(method, done.wait, done.compute, done.encode)
        self._metrics.computed(*job.work())
        self._metrics.gpu_memory(self._engine.gpu_memory_bytes())
        return done.message

    def _finished(
        self, method: str, code: str, started: float, received: int, message: bytes
    ) -> None:
        """Count a request that is over."""
        seconds = time.perf_counter() - started
        self._metrics.finished(method, code, seconds, received, len(message))
        if code == "CANCELLED" and not message:
            self._metrics.rejected("cancelled")

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


def _expiry(context: Context) -> float | None:
    """When the caller's deadline passes, on the monotonic clock."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


class _Done(NamedTuple):
    """An answer, and the seconds that its request waited, was computed and took to lay out."""

    message: bytes
    wait: float
    compute: float
    encode: float


async def _compute_in_batch(
    job: MaskJob, batcher: Batcher, arrived: float, expires: float | None
) -> _Done:
    """Compute a job with others; what it waited is not told apart from its computation."""
    laying_out = time.perf_counter()
    frame = job.lay_out()
    begun = time.perf_counter()
    await batcher.fill(BatchJob(job.inputs, frame.masks, frame.owners, expires))
    seconds = time.perf_counter() - begun
    return _Done(frame.message, laying_out - arrived, seconds, begun - laying_out)


def _compute(job: Job, engine: Engine, arrived: float, expires: float | None) -> _Done:
    """Compute a job, unless nobody waits for the answer any more.

    Raises:
        Expired: nobody does.
    """
    if expires is not None and time.monotonic() >= expires:
        raise Expired("the deadline passed before the request was computed")
    begun = time.perf_counter()
    frame: Any = job.lay_out()
    laid_out = time.perf_counter()
    message = job.fill(frame, engine)
    return _Done(message, begun - arrived, time.perf_counter() - laid_out, laid_out - begun)
