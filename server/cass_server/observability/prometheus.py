"""The workers' metrics, added up and served to Prometheus over HTTP."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Thread
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cass_core.errors import CassError
from cass_server.observability.metrics import FAMILIES, SLOTS, STARTS, Family, Metrics


class Workers(Protocol):
    """Whoever starts the worker processes, and is asked at every scrape."""

    @property
    def alive(self) -> int:
        """Worker processes that run."""

    @property
    def restarts(self) -> int:
        """Workers that were started in place of one that ended."""


@dataclass(frozen=True, slots=True)
class OneWorker:
    """A server of one process, which nobody starts again."""

    alive: int = 1
    restarts: int = 0


class WorkerMetrics(Collector):
    """Adds up the metrics of all workers, at every scrape.

    Args:
        sources: a worker's `Metrics` in this process, or its file, which may not be there yet.
        workers: the worker processes.
        version: of this package.
        device: where the server computes.
    """

    def __init__(
        self, sources: Sequence[Metrics | Path], workers: Workers, version: str, device: str
    ) -> None:
        self._sources = sources
        self._workers = workers
        self._build = {"version": version, "device": device}

    def collect(self) -> Iterator[Metric]:
        """All families of metrics."""
        totals = [sum(slot) for slot in zip(*map(_read, self._sources), strict=True)]
        for family in FAMILIES:
            yield _metric(family, totals)
        yield GaugeMetricFamily("cass_workers", "Worker processes alive.", self._workers.alive)
        yield CounterMetricFamily(
            "cass_worker_restarts_total",
            "Workers started in place of one that ended.",
            self._workers.restarts,
        )
        yield InfoMetricFamily("cass_build", "What is running.", self._build)


def _read(source: Metrics | Path) -> Sequence[float]:
    if isinstance(source, Metrics):
        return source.slots
    try:
        slots = array("d", source.read_bytes())
    except FileNotFoundError:
        slots = array("d")
    # One that is not all there yet belongs to a worker that is just starting.
    return slots if len(slots) == SLOTS else array("d", bytes(8 * SLOTS))


def _metric(family: Family, totals: Sequence[float]) -> Metric:
    start, width = STARTS[family.name], family.width
    series = [
        (labels, totals[start + i * width : start + (i + 1) * width])
        for i, labels in enumerate(family.series)
    ]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        bounds = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, values in series:
            # Prometheus' buckets hold all that is below their bound.
            buckets = list(zip(bounds, accumulate(values[:-1]), strict=True))
            histogram.add_metric(labels, buckets, values[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, values in series:
        metric.add_metric(labels, values[0])
    return metric


class MetricsServer:
    """Answers scrapes until `stop`.

    Attributes:
        port: the port that it listens on.
    """

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port

    def stop(self) -> None:
        """Close the port and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(host: str, port: int, metrics: WorkerMetrics) -> MetricsServer:
    """Serve them over HTTP, in a thread.

    Args:
        host: address to bind to.
        port: port to bind to; 0 for a free one.
        metrics: what is told.

    Raises:
        CassError: the address cannot be bound.
    """
    # Described, so that a scrape can ask for some of the families.
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    try:
        return MetricsServer(*start_http_server(port, host, registry))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CassError(f"cannot serve metrics on {host}:{port}: {reason}") from error
