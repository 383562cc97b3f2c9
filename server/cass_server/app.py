"""A server's life: bind, warm up, serve, drain on a signal, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cass_core import __version__
from cass_core.errors import CassError
from cass_server.engine import Engine
from cass_server.limits import Limits
from cass_server.service import SERVICE_NAME, CassService

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


async def serve(engine: Engine, limits: Limits, host: str, port: int, drain_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return.

    A computation that takes longer than the drain is left to its thread.

    Args:
        engine: where to compute.
        limits: the largest request taken.
        host: address to bind to.
        port: port to bind to; 0 for a free one, which the line logged at the start names.
        drain_seconds: how long requests in flight may take after the signal.

    Raises:
        CassError: the address cannot be bound.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compute")
    server = grpc.aio.server(options=_options(limits))
    CassService(engine, limits, executor).add_to(server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection(
        [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    await _set_health(status, health_pb2.HealthCheckResponse.NOT_SERVING)
    address = _bind(server, host, port)
    started = time.monotonic()
    await server.start()
    warm = asyncio.ensure_future(loop.run_in_executor(executor, engine.warm_up))
    await _first(warm, stop.wait())
    if not stop.is_set():
        await _set_health(status, health_pb2.HealthCheckResponse.SERVING)
        _log.info(
            "serving",
            extra={
                "address": address,
                "device": engine.device,
                "version": __version__,
                "pid": os.getpid(),
                "warm_up_seconds": round(time.monotonic() - started, 3),
            },
        )
        await stop.wait()
    draining = time.monotonic()
    await status.enter_graceful_shutdown()
    await server.stop(drain_seconds)
    executor.shutdown(wait=False, cancel_futures=True)
    _log.info("stopped", extra={"drain_seconds": round(time.monotonic() - draining, 3)})


def _options(limits: Limits) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_receive_message_length", limits.message_bytes),
        # Bounded by the patches of a request.
        ("grpc.max_send_message_length", -1),
        # A second server on the port is a mistake that should be seen.
        ("grpc.so_reuseport", 0),
    )


def _bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """The address that the server listens on."""
    if ":" in host:
        host = f"[{host}]"
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise CassError(f"cannot listen on {host}:{port}: is the port taken?") from error
    return f"{host}:{bound}"


async def _set_health(
    status: health.aio.HealthServicer, value: health_pb2.HealthCheckResponse.ServingStatus
) -> None:
    for service in ("", SERVICE_NAME):
        await status.set(service, value)


async def _first(warm: asyncio.Future[None], stopped: object) -> None:
    """Wait for the warm-up, which raises what went wrong in it, or for the signal."""
    waiter = asyncio.ensure_future(stopped)  # type: ignore[call-overload]
    await asyncio.wait((warm, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if warm.done():
        warm.result()
