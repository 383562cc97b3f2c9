"""Runs a server by its settings: in this process, or in several behind one port."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from cass.contract import SERVICE_NAME
from cass.malloc import keep_memory
from cass_core import __version__
from cass_core.errors import CassError
from cass_server.config.address import address_of, is_unix, reserve_port
from cass_server.config.settings import Settings
from cass_server.engines.base import Engine, device_of, make_engine
from cass_server.observability.logging import set_up_logging
from cass_server.observability.metrics import Metrics
from cass_server.observability.prometheus import OneWorker, WorkerMetrics, Workers, serve_metrics
from cass_server.observability.tracing import start_traces
from cass_server.process.supervisor import Supervisor
from cass_server.rpc.launch import LaunchContext
from cass_server.rpc.server import serve

SETTINGS_VARIABLE = "CASS_WORKER_SETTINGS"
"""The settings of a worker process, as JSON."""
PORT_VARIABLE = "CASS_WORKER_PORT"
"""The port that all workers bind to."""
FOLDER_VARIABLE = "CASS_WORKER_FOLDER"
"""The folder of the files that workers count in, named by their index."""

_THREADS_VARIABLE = "OMP_NUM_THREADS"

_log = logging.getLogger(__name__)


def run(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or SIGINT, and end the process.

    Raises:
        CassError: the server cannot be started; the setting is named.
    """
    set_up_logging(settings.log_level)
    workers = _worker_count(settings)
    # On a GPU a process may have to be replaced: a CUDA context that is broken stays so.
    if workers > 1 or device_of(settings.device) != "cpu":
        exit_process(_supervise(settings, workers))
    engine = make_engine(settings.device)
    metrics = Metrics()
    with _exposed(settings, [metrics], OneWorker(), engine.device):

        def serving(address: str) -> None:
            _log_serving(address, engine.device, workers)

        launch = LaunchContext(settings.port, shared=False, serving=serving)
        code = serve_in_process(settings, engine, metrics, launch)
    exit_process(code)


def exit_process(code: int) -> NoReturn:
    """Ends the process, whatever its threads do.

    A computation that outlives the drain cannot be cancelled, and the interpreter would wait for
    its thread.
    """
    logging.shutdown()
    os._exit(code)


def serve_in_process(
    settings: Settings, engine: Engine, metrics: Metrics, launch: LaunchContext
) -> int:
    """`cass_server.rpc.server.serve` with memory settings and traces; returns the exit code.

    Raises:
        CassError: the server cannot be started.
    """
    keep_memory(arenas=1)
    traces = start_traces(__version__, SERVICE_NAME) if settings.telemetry else None
    try:
        return serve(settings, engine, metrics, launch, traces)
    finally:
        if traces is not None:
            traces.close()


def _supervise(settings: Settings, workers: int) -> int:
    """Runs worker processes; returns the exit code."""
    device = device_of(settings.device)
    held, port = reserve_port(settings.host, settings.port)
    with held, tempfile.TemporaryDirectory(prefix="cass-server-") as folder:
        # A replacement continues the file of the worker before it.
        files = [Path(folder, f"worker-{index}") for index in range(workers)]
        environment = {
            **os.environ,
            SETTINGS_VARIABLE: settings.model_dump_json(),
            PORT_VARIABLE: str(port),
            FOLDER_VARIABLE: folder,
        }
        # Workers share the cores.
        environment.setdefault(_THREADS_VARIABLE, str(max(1, _core_count() // workers)))

        def ready() -> None:
            _log_serving(address_of(settings.host, port), device, workers)

        def died(index: int) -> None:
            with contextlib.suppress(CassError):
                Metrics.open(files[index])  # it has nothing in flight any more

        supervisor = Supervisor(
            [sys.executable, "-m", "cass_server.process.worker"],
            workers,
            environment,
            drain_seconds=settings.drain_seconds,
            on_ready=ready,
            on_exit=died,
        )
        with _exposed(settings, files, supervisor, device):
            return supervisor.run()


def _log_serving(address: str, device: str, workers: int) -> None:
    extra = {
        "address": address,
        "device": device,
        "version": __version__,
        "pid": os.getpid(),
        "workers": workers,
    }
    _log.info("serving", extra=extra)


@contextlib.contextmanager
def _exposed(
    settings: Settings, sources: Sequence[Metrics | Path], workers: Workers, device: str
) -> Iterator[None]:
    """Serve metrics on their port, if one is set."""
    if settings.metrics_port is None:
        yield
        return
    metrics = WorkerMetrics(sources, workers, __version__, device)
    server = serve_metrics(settings.metrics_host, settings.metrics_port, metrics)
    _log.info("metrics", extra={"address": f"{settings.metrics_host}:{server.port}"})
    try:
        yield
    finally:
        server.stop()


def _worker_count(settings: Settings) -> int:
    if settings.workers != "auto":
        return settings.workers
    return 1 if is_unix(settings.host) else _core_count()


def _core_count() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
