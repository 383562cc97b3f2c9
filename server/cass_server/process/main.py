"""Runs a server by its settings: in this process, or in several behind one port."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from cass.malloc import keep_memory
from cass_core import __version__
from cass_core.cpu.cores import core_count
from cass_core.errors import CassError
from cass_server.config.address import address_of, is_unix, reserve_port
from cass_server.config.settings import Settings
from cass_server.engines.base import Engine
from cass_server.engines.choice import devices_of, make_engine
from cass_server.observability.logging import count_dropped, set_up_logging
from cass_server.observability.metrics import Metrics, shared_memory
from cass_server.observability.prometheus import WorkerMetrics, serve_metrics
from cass_server.observability.tracing import start_traces
from cass_server.open_inference.service import open_inference
from cass_server.process.supervisor import Supervisor
from cass_server.process.worker_channel import COMMAND, worker_environment
from cass_server.resource_limits import exhausted
from cass_server.rpc.server import serve
from cass_server.rpc.servicer import Host, Listener
from cass_server.security.tls import metrics_context

_THREADS_VARIABLE = "OMP_NUM_THREADS"

_log = logging.getLogger(__name__)


def run(settings: Settings) -> NoReturn:
    """Serves until a signal to stop, and ends the process; raises `CassError` if it cannot."""
    keep_memory(arenas=1)  # before there are threads
    set_up_logging(settings.log_level)
    # Torch is loaded next, if it is there, and kernels are compiled: said before that takes long.
    _log.info("warming up", extra={"version": __version__, "pid": os.getpid()})
    devices = devices_of(settings.device)
    device, workers = ",".join(devices), settings.workers
    if workers == "auto":
        # More contexts on a GPU would but take its time and memory from each other.
        each = core_count() if device == "cpu" else len(devices)
        workers = 1 if is_unix(settings.host) else each
        settings = settings.model_copy(update={"workers": workers})
    # On a GPU a process may have to be replaced: a CUDA context that is broken stays so.
    if workers > 1 or device != "cpu":
        exit_process(_supervise(settings, workers, device))
    engine, metrics = make_engine(settings.device), Metrics()
    count_dropped(metrics.log_dropped)
    with _exposed(settings, WorkerMetrics([metrics], __version__, device)):
        serving = partial(_log_serving, device, workers)
        code = serve_in_process(
            settings, engine, metrics, settings.port, shared=False, serving=serving
        )
    exit_process(code)


def exit_process(code: int) -> NoReturn:
    """Ends the process, whatever its threads do.

    A computation that outlives the drain cannot be cancelled, and the interpreter would wait for
    its thread.
    """
    logging.shutdown()
    os._exit(code)


def serve_in_process(
    settings: Settings, engine: Engine, metrics: Metrics, port: int, **options: Any
) -> int:
    """`cass_server.rpc.server.serve` with traces; returns the exit code.

    A fault is logged, and its code is 1: the caller then leaves by `exit_process`, since as an
    exception it would keep the process until the last computation ends.
    """
    traces = start_traces(__version__) if settings.telemetry else None
    try:
        services = (open_inference,) if settings.open_inference else ()
        given = {**options, "services": services, "listen": _http(settings, options["shared"])}
        return serve(settings, engine, metrics, port, traces=traces, **given)
    except CassError:
        raise
    except Exception as error:
        if exhausted(error):
            raise
        _log.exception("the server failed")
        return 1
    finally:
        if traces is not None:
            traces.close()


def _http(settings: Settings, shared: bool) -> Callable[[Host], Listener] | None:
    """Makes what serves HTTP, if its port is set.

    Raises:
        CassError: a package is missing.
    """
    if settings.http_port is None:
        return None
    try:
        from cass_server.http.server import serve_http
    except ImportError as error:
        raise CassError(f"http_port needs cass[http]: no module {error.name}") from error
    return partial(serve_http, settings, shared=shared)


def _supervise(settings: Settings, workers: int, device: str) -> int:
    """Runs worker processes; returns the exit code."""
    with contextlib.ExitStack() as stack:
        held, port = reserve_port(settings.host, settings.port)
        stack.enter_context(held)
        if _http(settings, shared=True) is not None:
            held, http_port = reserve_port(settings.host, settings.http_port or 0)
            stack.enter_context(held)
            settings = settings.model_copy(update={"http_port": http_port})
            _log.info("http", extra={"address": address_of(settings.host, http_port)})
        # A replacement goes on counting where the worker before it ended.
        shared = [shared_memory() for _ in range(workers)]
        metrics = [*map(Metrics, shared)]
        environment = worker_environment(settings, port)
        # Workers share the cores.
        environment.setdefault(_THREADS_VARIABLE, str(max(1, core_count() // workers)))
        supervisor = Supervisor(
            COMMAND,
            workers,
            environment,
            metrics=shared,
            drain_seconds=settings.drain_seconds,
            on_ready=partial(_log_serving, device, workers, address_of(settings.host, port)),
            on_exit=lambda index: metrics[index].restart(),
        )
        own = Metrics()
        count_dropped(own.log_dropped)
        found = WorkerMetrics([*metrics, own], __version__, device, supervisor.counts)
        with _exposed(settings, found):
            return supervisor.run()


def _log_serving(device: str, workers: int, address: str) -> None:
    extra = {
        "address": address,
        "device": device,
        "version": __version__,
        "pid": os.getpid(),
        "workers": workers,
    }
    _log.info("serving", extra=extra)


@contextlib.contextmanager
def _exposed(settings: Settings, metrics: WorkerMetrics) -> Iterator[None]:
    """Serve metrics on their port, if one is set."""
    if settings.metrics_port is None:
        yield
        return
    host = settings.metrics_host
    tls = metrics_context(settings)
    with serve_metrics(host, settings.metrics_port, metrics, tls) as port:
        _log.info("metrics", extra={"address": address_of(host, port)})
        yield
