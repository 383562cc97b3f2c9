"""The metrics that Prometheus is told, sent by OTLP to an OpenTelemetry collector.

Not by gRPC's own plugin, which knows nothing of the masks, batches and rejections counted here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from itertools import groupby, pairwise
from threading import Event, Thread
from time import time_ns
from typing import TYPE_CHECKING, cast

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from cass_core.errors import CassError
from cass_server.observability.otlp import is_switched_off, make_exporter, make_resource
from cass_server.observability.prometheus import WorkerMetrics

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.resources import Resource

_INTERVAL_VARIABLE = "OTEL_METRIC_EXPORT_INTERVAL"
_DEFAULT_INTERVAL = "60000"
_STOP_SECONDS = 5.0

_log = logging.getLogger(__name__)


def start_telemetry(service_version: str, metrics: WorkerMetrics) -> Callable[[], None]:
    """Send metrics again and again, from a thread.

    Where to, how often and under which names is told by OpenTelemetry's environment variables, as
    in ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_PROTOCOL`` (``http/protobuf`` or
    ``grpc``), ``OTEL_METRIC_EXPORT_INTERVAL`` (milliseconds) and ``OTEL_SERVICE_NAME``;
    ``OTEL_METRICS_EXPORTER=none`` sends nothing.

    Args:
        service_version: of this package, an attribute of all that is sent.
        metrics: what is sent.

    Returns:
        What ends it, having sent the last values; it waits 5 s at most.

    Raises:
        CassError: a package is missing, or a variable has no sense.
    """
    if is_switched_off("metrics"):
        return lambda: None
    resource = make_resource(service_version)
    exporter, seconds = cast("export.MetricExporter", make_exporter("metrics")), _interval()
    started, stopped = time_ns(), Event()

    def send() -> None:
        try:
            exporter.export(_data(metrics, resource, started))
        except Exception:
            # The next may arrive; exporters log what they expect to go wrong.
            _log.exception("telemetry not sent")

    def run() -> None:
        while not stopped.wait(seconds):
            send()
        send()

    thread = Thread(target=run, name="telemetry", daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(_STOP_SECONDS)
        exporter.shutdown()

    return stop


def _interval() -> float:
    """Seconds."""
    text = os.environ.get(_INTERVAL_VARIABLE) or _DEFAULT_INTERVAL
    if not text.isdecimal() or int(text) == 0:
        raise CassError(f"{_INTERVAL_VARIABLE} must be a number of milliseconds, got {text}")
    return int(text) / 1000


def _data(metrics: WorkerMetrics, resource: Resource, started: int) -> export.MetricsData:
    """What a scrape would tell now, as of ``started``, in nanoseconds since 1970."""
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now = time_ns()
    cumulative = export.AggregationTemporality.CUMULATIVE

    def number(sample: Sample) -> export.NumberDataPoint:
        return export.NumberDataPoint(sample.labels, started, now, sample.value)

    def histogram(samples: Iterable[Sample]) -> export.HistogramDataPoint:
        *buckets, count, total = samples
        # OTLP's buckets hold only what is above the bucket before, and the last needs no bound.
        counts = [0, *(int(bucket.value) for bucket in buckets)]
        return export.HistogramDataPoint(
            attributes=count.labels,
            start_time_unix_nano=started,
            time_unix_nano=now,
            count=int(count.value),
            sum=total.value,
            bucket_counts=[after - before for before, after in pairwise(counts)],
            explicit_bounds=[float(bucket.labels["le"]) for bucket in buckets[:-1]],
            min=None,  # type: ignore[arg-type]  # OTLP need not know
            max=None,  # type: ignore[arg-type]
        )

    def points(metric: Metric) -> export.Sum | export.Gauge | export.Histogram:
        if metric.type == "histogram":
            series = groupby(metric.samples, _labels)
            return export.Histogram([histogram(samples) for _, samples in series], cumulative)
        numbers = [number(sample) for sample in metric.samples]
        if metric.type == "counter":
            return export.Sum(numbers, cumulative, is_monotonic=True)
        return export.Gauge(numbers)

    converted = [
        export.Metric(_name(metric), metric.documentation, _unit(metric.name), points(metric))
        for metric in metrics.collect()
    ]
    scope = InstrumentationScope("cass_server")
    return export.MetricsData(
        [export.ResourceMetrics(resource, [export.ScopeMetrics(scope, converted, "")], "")]
    )


def _labels(sample: Sample) -> dict[str, str]:
    """Of the series that a histogram's sample belongs to."""
    return {name: value for name, value in sample.labels.items() if name != "le"}


def _name(metric: Metric) -> str:
    """As Prometheus shows it, but for the ``_total`` of counters."""
    return f"{metric.name}_info" if metric.type == "info" else metric.name


def _unit(name: str) -> str:
    """Of a metric with this name, as OpenTelemetry writes it."""
    return {"seconds": "s", "bytes": "By"}.get(name.rpartition("_")[2], "1")
