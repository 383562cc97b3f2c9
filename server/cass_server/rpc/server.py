"""One server process: bind, warm up, serve, drain, stop."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeAlias, cast

import grpc

from cass.contract import SERVICE_NAME
from cass_core.cpu.cores import core_count
from cass_core.errors import CassError
from cass_server.config.address import (
    address_of,
    check_socket,
    port_of,
    reserve_port,
    without_ipv6,
)
from cass_server.config.channel_options import options
from cass_server.config.limits import Limits
from cass_server.config.settings import Settings
from cass_server.engines.base import Engine
from cass_server.observability.metrics import Metrics
from cass_server.observability.tracing import Traces
from cass_server.rpc import health
from cass_server.rpc.answerer import Answerer
from cass_server.rpc.delivery import Delivery
from cass_server.rpc.health import Health
from cass_server.rpc.receiving import IS_SUPPORTED, HelperPool, MessageFirst
from cass_server.rpc.reflection import add_reflection
from cass_server.rpc.router import Router
from cass_server.rpc.servicer import CassService, Host, Listener, Service
from cass_server.rpc.slow_peers import SlowPeers
from cass_server.rpc.streams import MaskStreams
from cass_server.scheduling.admission import Admission
from cass_server.scheduling.batcher import Batcher
from cass_server.scheduling.compute_pool import ComputePool
from cass_server.scheduling.deadlines import Deadlines
from cass_server.scheduling.thread_pool import ThreadPool
from cass_server.security.file_watch import FileWatch
from cass_server.security.tls import TlsFiles
from cass_server.security.tokens import TokenFile
from cass_server.signals import stop_signals

# Threads for reflection and channelz: most wait.
_HELPER_THREADS = 256
# Threads where the ends of calls wait for their answers to arrive, while the server stops.
_DELIVERY_THREADS = 256
# Threads beyond the cores that answer requests; measured with 0 to 2.
_MORE_THREADS = 1
# For callers who go on calling a server that refuses them.
_REFUSING_SECONDS = 1.0
# How often a signal is looked for that did not end the wait for one.
_LOOK_SECONDS = 0.5

# What the main thread waits for, beside errors.
_WARM, _STOP = "the engine is warm", "the server is to stop"
_Event: TypeAlias = str | Exception

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    port: int,
    *,
    shared: bool,
    serving: Callable[[str], None],
    wait_lost: Callable[[], None] | None = None,
    services: Sequence[Callable[[Host], Service]] = (),
    listen: Callable[[Host], Listener] | None = None,
    traces: Traces | None = None,
) -> int:
    """Serve until a signal to stop, then answer what is in flight and return.

    For the main thread, which gets the signals. A computation that takes longer than the drain is
    left to its thread. If the device breaks, serving ends too, so that the process can be replaced;
    if it hangs, at once.

    Args:
        settings: of the server, but for the port and the number of processes.
        engine: where to compute.
        metrics: counts requests.
        port: port to bind to; 0 for a free one.
        shared: whether other processes bind to it too.
        serving: called with the address once requests are answered.
        wait_lost: returns when the process is to drain without a signal, if ever.
        services: make what is served beside our own service.
        listen: makes what serves the same on another port, if given.
        traces: records spans, if given.

    Returns:
        The exit code of the process: 0, or 1 if the device is broken.

    Raises:
        CassError: the address cannot be bound, or a file cannot be used.
    """
    # Signal handlers may put into it.
    events: SimpleQueue[_Event] = SimpleQueue()
    for number in stop_signals():
        signal.signal(number, lambda *_: events.put(_STOP))
    if wait_lost is not None:
        _report_end(wait_lost, events, _STOP)
    is_broken, is_hung = threading.Event(), threading.Event()

    def on_fatal() -> None:
        is_broken.set()
        # First, whatever becomes of the rest.
        events.put(_STOP)
        status.end()

    def on_hang() -> None:
        is_hung.set()
        on_fatal()

    limits = Limits.of(settings)
    pool = ComputePool(compute_threads(settings) if IS_SUPPORTED else limits.requests_in_flight)
    admission, deadlines = Admission(limits), Deadlines()
    batcher = _batcher(settings, engine, metrics)
    answerer = Answerer(
        engine,
        admission,
        deadlines,
        pool,
        metrics,
        batcher=batcher,
        traces=traces,
        by_token=settings.token_file is not None,
        on_fatal=on_fatal,
    )
    helpers = HelperPool(_HELPER_THREADS, "helper")
    # Threads of its own: those of helpers may all wait for their callers when the server stops.
    delivery = Delivery(ThreadPool(_DELIVERY_THREADS, "delivery"))
    streams = MaskStreams(answerer, limits, delivery)
    tokens = None if settings.token_file is None else TokenFile(settings.token_file)
    allows = None if tokens is None else tokens.allows
    host = Host(answerer, limits, streams, helpers, lambda: status.is_serving, allows)
    others = [make(host) for make in services]
    service = CassService(answerer, limits, streams, helpers, others)
    names = (SERVICE_NAME, *(other.name for other in others))
    status = Health(names, helpers, deadlines, limits.receive_seconds)
    router = Router(service, allows, helpers)
    router.add_registered_method_handlers(health.SERVICE_NAME, status.handlers())
    add_reflection(router, others)
    if settings.channelz:
        _add_channelz(router)
    server = grpc.server(
        # What gRPC uses of a pool is `submit`.
        cast(ThreadPoolExecutor, MessageFirst(pool, delivery)),
        handlers=[router],
        maximum_concurrent_rpcs=cast(int, router.limit),
        options=options(settings, shared=shared),
    )
    slow_peers = SlowPeers(server, answerer, limits, metrics, service.refused)
    tls = _tls_files(settings)
    address = _bind(server, settings, port, tls)
    other = None if listen is None else listen(host)
    FileWatch(tokens, tls, metrics, status.set_files).start()
    started = time.monotonic()
    server.start()
    engine.watch(metrics, on_hang)
    _report_end(engine.warm_up, events, _WARM)
    event = _next(events)
    if isinstance(event, Exception):
        raise event
    if event is _WARM:
        # What is loaded by now stays: to look through it for garbage takes 60 ms, in which nothing
        # else runs.
        gc.collect()
        gc.freeze()
        slow_peers.bound_memory()
        status.set(serving=True)
        _log.debug("warm", extra={"warm_up_seconds": round(time.monotonic() - started, 3)})
        serving(address)
        _next(events)
    draining = time.monotonic()
    status.end()
    router.close()
    if other is not None:
        other.close()
    delivery.stop(port_of(address))
    streams.stop()
    refusing = min(_REFUSING_SECONDS, settings.drain_seconds)
    router.wait_idle(refusing)
    delivery.wait_sent(server, draining + refusing)
    if is_hung.is_set():
        # What waits for the device never ends. Cut off, its callers go to another server at once.
        return int(is_broken.is_set())
    end = draining + settings.drain_seconds
    left = max(0.0, end - time.monotonic())
    stopped = server.stop(left)
    admission.wait_idle(left)
    streams.wait_ended(max(0.0, end - time.monotonic()))
    delivery.wait_arrived(server, stopped, end)
    if other is not None:
        other.stop(max(0.0, end - time.monotonic()))
    slow_peers.close()
    if batcher is not None:
        batcher.close()
    _log.info("stopped", extra={"drain_seconds": round(time.monotonic() - draining, 3)})
    return int(is_broken.is_set())


def _next(events: SimpleQueue[_Event]) -> _Event:
    """Waits for an event, in the main thread.

    Python's handler of a signal runs between two of that thread's instructions. A signal that comes
    just before the thread begins to wait, or to another thread, does not end the wait.
    """
    while True:
        with contextlib.suppress(Empty):
            return events.get(timeout=_LOOK_SECONDS)


def _report_end(function: Callable[[], None], events: SimpleQueue[_Event], event: _Event) -> None:
    """Runs a function in a daemon thread; its end, or its failure, is an event."""

    def run() -> None:
        try:
            function()
        except Exception as error:
            events.put(error)
        else:
            events.put(event)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()


def compute_threads(settings: Settings) -> int:
    """How many threads read, compute and answer at a time.

    One more than the cores of this worker: while one hands its answer to gRPC, another computes.
    """
    if settings.compute_threads != "auto":
        return settings.compute_threads
    workers = core_count() if settings.workers == "auto" else settings.workers
    return max(1, core_count() // workers) + _MORE_THREADS


def _batcher(settings: Settings, engine: Engine, metrics: Metrics) -> Batcher | None:
    """What gathers requests, if that is set and the engine has launches to save."""
    fill = engine.fill_batch
    if not settings.batching or fill is None:
        return None
    return Batcher(
        fill,
        window_seconds=settings.batch_window_milliseconds / 1e3,
        max_patches=settings.batch_max_patches,
        max_boxes=settings.batch_max_boxes,
        launched=metrics.batched,
    )


def _add_channelz(router: Router) -> None:
    from grpc_channelz.v1 import channelz, channelz_pb2_grpc

    channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.ChannelzServicer(), router)


def _tls_files(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _bind(server: grpc.Server, settings: Settings, port: int, tls: TlsFiles | None) -> str:
    """The address that the server listens on."""
    host = settings.host
    check_socket(host)
    if not port and host == "0.0.0.0":  # without IPv6, which needs a port that is known
        held, port = reserve_port(host, port)
        held.close()
    address = address_of(host, port)
    try:
        with without_ipv6(host, port):
            if tls is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, tls.credentials())
    except RuntimeError as error:
        reserve_port(host, port)[0].close()  # which says why, as gRPC does not
        raise CassError(f"cannot listen on {address}") from error
    return address_of(host, bound)
