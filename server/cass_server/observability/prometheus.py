"""The workers' metrics, added up and served to Prometheus over HTTP."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
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
from cass_server.config.address import address_of
from cass_server.observability.families import FAMILIES, Family
from cass_server.observability.metrics import STARTS, Metrics


class WorkerMetrics(Collector):
    """Adds up the metrics of all workers, at every scrape.

    ``count_workers`` returns how many worker processes run, and how many replaced one that ended.
    """

    def __init__(
        self,
        workers: Sequence[Metrics],
        version: str,
        device: str,
        count_workers: Callable[[], tuple[int, int]] = lambda: (1, 0),
    ) -> None:
        self._workers = workers
        self._build = {"version": version, "device": device}
        self._count_workers = count_workers

    def collect(self) -> Iterator[Metric]:
        """All families of metrics."""
        slots = list(zip(*(metrics.slots for metrics in self._workers), strict=True))
        for family in FAMILIES:
            yield _metric(family, slots)
        alive, restarts = self._count_workers()
        yield GaugeMetricFamily("cass_workers", "Worker processes alive.", alive)
        yield CounterMetricFamily(
            "cass_worker_restarts_total", "Workers started in place of one that ended.", restarts
        )
        yield InfoMetricFamily("cass_build", "What is running.", self._build)


def _metric(family: Family, slots: Sequence[Sequence[float]]) -> Metric:
    start, width = STARTS[family.name], family.width
    combine = _least if family.is_least else sum
    series = [
        (labels, [combine(slot) for slot in slots[start + i * width : start + (i + 1) * width]])
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
        if values[0] or not family.is_least:
            metric.add_metric(labels, values[0])
    return metric


def _least(values: Sequence[float]) -> float:
    """The least that is above 0; 0 if there is none."""
    return min((value for value in values if value > 0), default=0.0)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, in which a TLS handshake takes place as well."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Says nothing of peers who leave or stall."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 30  # seconds for a peer to send or to read

    def log_message(self, *_: Any) -> None:
        """Says nothing of each scrape."""


@contextlib.contextmanager
def serve_metrics(
    host: str, port: int, metrics: WorkerMetrics, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Serves metrics over HTTP, with TLS if given, in a thread, within the block; yields the port.

    Raises:
        CassError: there is no such address, or it is taken.
    """
    # Described, so that a scrape can ask for some of the families.
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    kind = _ServerV6 if ":" in host else _Server
    try:
        server = make_server(host, port, make_wsgi_app(registry), kind, _Handler)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CassError(f"cannot serve metrics on {address_of(host, port)}: {reason}") from error
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
