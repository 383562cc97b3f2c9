"""The workers' metrics, added up and served to Prometheus over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

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
from cass_server.config.address import address_of
from cass_server.observability.metrics import FAMILIES, STARTS, Family, Metrics


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
        slots = (metrics.slots for metrics in self._workers)
        totals = [sum(slot) for slot in zip(*slots, strict=True)]
        for family in FAMILIES:
            yield _metric(family, totals)
        alive, restarts = self._count_workers()
        yield GaugeMetricFamily("cass_workers", "Worker processes alive.", alive)
        yield CounterMetricFamily(
            "cass_worker_restarts_total", "Workers started in place of one that ended.", restarts
        )
        yield InfoMetricFamily("cass_build", "What is running.", self._build)


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


@contextlib.contextmanager
def serve_metrics(host: str, port: int, metrics: WorkerMetrics) -> Iterator[int]:
    """Serves metrics over HTTP, in a thread, within the block; yields the port."""
    # Described, so that a scrape can ask for some of the families.
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CassError(f"cannot serve metrics on {address_of(host, port)}: {reason}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
