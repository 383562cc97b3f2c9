"""One server process: bind, warm up, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from cass_core.errors import CassError
from cass_server import health
from cass_server.admission import Admission
from cass_server.batcher import Batcher
from cass_server.engine import Engine
from cass_server.gate import Gate
from cass_server.health import Health
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.ports import address_of, is_unix, refuse_taken_socket
from cass_server.service import SERVICE_NAME, CassService
from cass_server.settings import Settings
from cass_server.tls import server_credentials
from cass_server.tokens import TokenFile
from cass_server.traces import Traces

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NEVER = 2**31 - 1  # ms, as gRPC has it
# Calls that gRPC has taken in and not handed over yet: past so many, or as many as may be under
# way, it drops some, and past twice as many all, for less than a refusal of ours costs. The caller
# is told CANCELLED (https://github.com/grpc/grpc/issues/41785) and nothing of when to come again:
# so there is room for any burst of callers who wait for their answers. Without a bound a flood
# waits for seconds, to be refused. A bound of 16 to 64 cuts a flood's p99 in proportion, but gains
# no answers, and drops calls of a crowd who would have waited.
_PENDING_CALLS = 256
# For callers who go on calling a server that turns them away.
_FAREWELL_SECONDS = 1.0
# For connections to close once nothing is under way on them.
_GOODBYE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a process is told by whoever started it.

    Attributes:
        port: port to bind to; 0 for a free one.
        shared: whether other processes bind to it too.
        serving: called with the address once requests are answered.
        lost: returns when the process is to drain beside a signal, if ever.
    """

    port: int
    shared: bool
    serving: Callable[[str], None]
    lost: Callable[[], Awaitable[None]] | None = None


async def serve(
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    place: Place,
    traces: Traces | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return.

    A computation that takes longer than the drain is left to its thread. If the device breaks,
    serving ends too, so that the process can be replaced.

    Returns:
        The exit code of the process: 0, or 1 if the device is broken.

    Raises:
        CassError: the address cannot be bound, or a file cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compute")
    limits = limits_of(settings)
    status = Health((SERVICE_NAME,))
    tokens = None if settings.token_file is None else TokenFile(settings.token_file)
    gate = Gate(tokens, metrics, (health.SERVICE_NAME,))
    broken = asyncio.Event()

    def give_up() -> None:
        broken.set()
        status.end()
        stop.set()

    batcher = _batcher(settings, engine, executor, metrics)
    admission = Admission(limits)
    service = CassService(
        engine,
        limits,
        executor,
        admission,
        metrics,
        batcher=batcher,
        traces=traces,
        give_up=give_up,
    )
    service.add_to(gate)
    _add_helpers(gate, status, settings)
    server = grpc.aio.server(handlers=(gate,), options=options(settings, shared=place.shared))
    address = _bind(server, settings, place.port)
    started = time.monotonic()
    await server.start()
    warm = asyncio.ensure_future(loop.run_in_executor(executor, engine.warm_up))
    lost = asyncio.ensure_future(_stop_when(place.lost, stop))
    waiter = asyncio.ensure_future(stop.wait())
    await asyncio.wait((warm, waiter), return_when=asyncio.FIRST_COMPLETED)
    if warm.done():
        warm.result()  # raises what went wrong in it
    if not stop.is_set():
        # What is loaded by now stays: to look through it for garbage takes 60 ms, in which nothing
        # else runs.
        gc.collect()
        gc.freeze()
        status.set(serving=True)
        _log.debug("warm", extra={"warm_up_seconds": round(time.monotonic() - started, 3)})
        place.serving(address)
        await waiter
    draining = time.monotonic()
    status.end()
    gate.close()
    await service.stop_streams()
    await gate.quiet(min(_FAREWELL_SECONDS, settings.drain_seconds))
    left = draining + settings.drain_seconds - time.monotonic()
    await _drain(server, admission, max(0.0, left))
    if batcher is not None:
        await batcher.close()
    executor.shutdown(wait=False, cancel_futures=True)
    for task in (lost, waiter):
        task.cancel()
    _log.info("stopped", extra={"drain_seconds": round(time.monotonic() - draining, 3)})
    return int(broken.is_set())


async def _drain(server: grpc.aio.Server, admission: Admission, seconds: float) -> None:
    """Stop once what is under way is answered, or after so many seconds."""
    stopped = asyncio.ensure_future(server.stop(seconds))
    answered = asyncio.ensure_future(admission.empty())
    await asyncio.wait((stopped, answered), return_when=asyncio.FIRST_COMPLETED)
    answered.cancel()
    # gRPC waits for every peer to confirm that it is sent away, and a dead one never does.
    await asyncio.wait((stopped,), timeout=_GOODBYE_SECONDS)
    await server.stop(0)
    await stopped


async def _stop_when(lost: Callable[[], Awaitable[None]] | None, stop: asyncio.Event) -> None:
    if lost is not None:
        await lost()
        stop.set()


def limits_of(settings: Settings) -> Limits:
    """The limits that are set."""
    return Limits(
        message_bytes=int(settings.max_message_bytes),
        images=settings.max_images,
        boxes=settings.max_boxes,
        patches=settings.max_patches,
        feature_maps=settings.max_feature_maps,
        requests_in_flight=settings.max_in_flight,
        queue_bytes=int(settings.max_queue_bytes),
        streams_per_connection=settings.max_streams_per_connection,
        keepalive_min_seconds=settings.keepalive_min_client_seconds,
    )


def options(settings: Settings, *, shared: bool) -> Sequence[tuple[str, int]]:
    """gRPC's options for a server.

    Args:
        settings: message size, connections and keepalive.
        shared: whether several processes bind to the port; else a second server on it is a
            mistake that should be seen.
    """
    age = settings.max_connection_age_seconds
    grace = settings.max_connection_age_grace_seconds
    pending = max(_PENDING_CALLS, settings.max_in_flight)
    return (
        ("grpc.max_receive_message_length", int(settings.max_message_bytes)),
        # Bounded by the patches of a request.
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending),
        ("grpc.max_connection_age_ms", _milliseconds(age) if age else _NEVER),
        ("grpc.max_connection_age_grace_ms", _milliseconds(grace)),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        # The one that is obeyed: gRPC 1.85 waits for this, a minute by default, for any ping.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(settings.keepalive_min_client_seconds),
        ),
    )


def _batcher(
    settings: Settings, engine: Engine, executor: Executor, metrics: Metrics
) -> Batcher | None:
    """What gathers requests, if that is asked for and the engine has launches to save."""
    if not settings.batching or engine.device == "cpu":
        return None
    from cass_server.cuda import CudaEngine

    assert isinstance(engine, CudaEngine)
    return Batcher(
        engine.fill,
        executor,
        window_seconds=settings.batch_window_milliseconds / 1e3,
        max_patches=settings.batch_max_patches,
        max_boxes=settings.batch_max_boxes,
        launched=metrics.batched,
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _add_helpers(gate: Gate, status: Health, settings: Settings) -> None:
    """Health checks, reflection, and channelz if it is asked for."""
    health_pb2_grpc.add_HealthServicer_to_server(status, gate)
    names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
    if settings.channelz:
        from grpc_channelz.v1 import channelz, channelz_pb2_grpc

        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), gate)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(names), gate
    )


def _bind(server: grpc.aio.Server, settings: Settings, port: int) -> str:
    """The address that the server listens on."""
    refuse_taken_socket(settings.host)
    address = address_of(settings.host, port)
    credentials: Any = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        credentials = server_credentials(
            settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        )
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        question = "is there its folder?" if is_unix(settings.host) else "is the port taken?"
        raise CassError(f"cannot listen on {address}: {question}") from error
    return address_of(settings.host, bound)
