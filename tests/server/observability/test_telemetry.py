"""The metrics by OTLP, as a collector reads them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from types import SimpleNamespace

import pytest

from cass_core.errors import CassError
from cass_server.observability import otlp as destinations
from cass_server.observability import telemetry
from cass_server.observability.metrics import Metrics
from cass_server.observability.prometheus import OneWorker, WorkerMetrics
from cass_server.observability.telemetry import start_telemetry
from cass_server.rpc.calls import Call

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as otlp
from opentelemetry.proto.metrics.v1 import metrics_pb2

from tests.server.support.collector import Collected, grpc_collector, http_collector

LIMIT = 30.0
CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE

Point = metrics_pb2.NumberDataPoint | metrics_pb2.HistogramDataPoint


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables, of OTEL_… no others than these."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Whose clock stands at 0, so that a request which began at -0.3 took 0.3 s."""
    monkeypatch.setattr(
        "cass_server.observability.metrics.time", SimpleNamespace(perf_counter=lambda: 0.0)
    )
    return Metrics()


@pytest.fixture
def told(metrics: Metrics) -> WorkerMetrics:
    return WorkerMetrics([metrics], OneWorker(), "1.2.3", "cuda:0")


@pytest.mark.parametrize(
    ("collector", "protocol"),
    [(http_collector, None), (http_collector, "http/protobuf"), (grpc_collector, "grpc")],
)
@pytest.mark.timeout(60)
def test_all_kinds_of_metrics(
    metrics: Metrics,
    told: WorkerMetrics,
    environment: Callable[..., None],
    collector: Callable[[Collected], contextlib.AbstractContextManager[str]],
    protocol: str | None,
) -> None:
    for seconds in (0.0003, 0.0004, 20.0):
        metrics.started()
        call = Call("GenerateMask", (), -seconds)
        call.code, call.received = "OK", 100
        metrics.finished(call)
    metrics.started()
    collected = Collected()
    with collector(collected) as endpoint:
        environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="masks")
        if protocol is not None:
            environment(OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        start_telemetry("1.2.3", told)()  # what is left is sent at the end
    (resource,) = collected.metrics.get_nowait().resource_metrics
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (attributes["service.name"], attributes["service.version"]) == ("masks", "1.2.3")
    assert attributes["service.instance.id"]
    got = {metric.name: metric for metric in resource.scope_metrics[0].metrics}

    requests = got["cass_requests"].sum
    assert (requests.is_monotonic, requests.aggregation_temporality) == (True, CUMULATIVE)
    assert {labels(point): point.as_double for point in requests.data_points if value(point)} == {
        (("code", "OK"), ("method", "GenerateMask")): 3.0
    }
    assert got["cass_received_bytes"].unit == "By"
    assert value(got["cass_received_bytes"].sum.data_points[0]) == 300
    assert value(got["cass_requests_in_flight"].gauge.data_points[0]) == 1
    assert value(got["cass_workers"].gauge.data_points[0]) == 1
    (build,) = got["cass_build_info"].gauge.data_points
    assert labels(build) == (("device", "cuda:0"), ("version", "1.2.3"))

    duration = got["cass_request_duration_seconds"]
    assert (duration.unit, duration.histogram.aggregation_temporality) == ("s", CUMULATIVE)
    points = {labels(point): point for point in duration.histogram.data_points}
    point = points[(("method", "GenerateMask"),)]
    assert (point.count, point.sum) == (3, pytest.approx(20.0007))
    # 50, 100, 200 and 500 µs … 10 s
    assert list(point.explicit_bounds)[:4] == [5e-5, 1e-4, 2e-4, 5e-4]
    assert point.explicit_bounds[-1] == 10.0
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert {i: n for i, n in enumerate(point.bucket_counts) if n} == {
        3: 2,
        len(point.explicit_bounds): 1,
    }
    assert not point.HasField("min")
    assert not point.HasField("max")
    assert points[(("method", "ComputeLoss"),)].count == 0


@pytest.mark.timeout(60)
def test_sent_again_and_again(
    metrics: Metrics, told: WorkerMetrics, environment: Callable[..., None]
) -> None:
    collected = Collected()
    with http_collector(collected) as endpoint:
        environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_METRIC_EXPORT_INTERVAL="20")
        stop = start_telemetry("1", told)
        try:
            assert images(collected.metrics.get(timeout=LIMIT)) == 0
            call = Call("GenerateMask", (), 0.0)
            call.size = 5, 0, 0
            metrics.started()
            metrics.finished(call)
            while images(collected.metrics.get(timeout=LIMIT)) != 5:
                pass
        finally:
            stop()


@pytest.mark.timeout(60)
def test_nobody_collects(told: WorkerMetrics, environment: Callable[..., None]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
        )
        start_telemetry("1", told)()
    assert not [thread for thread in threading.enumerate() if thread.name == "telemetry"]


@pytest.mark.timeout(60)
def test_a_failure_does_not_end_it(
    metrics: Metrics,
    told: WorkerMetrics,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collected = Collected()
    collect, failed = told.collect, threading.Event()

    def fail_once() -> Iterator[object]:
        if failed.is_set():
            return collect()
        failed.set()
        raise RuntimeError("told to fail")

    monkeypatch.setattr(told, "collect", fail_once)
    with http_collector(collected) as endpoint:
        environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_METRIC_EXPORT_INTERVAL="20")
        stop = start_telemetry("1", told)
        try:
            collected.metrics.get(timeout=LIMIT)
        finally:
            stop()
    assert [record.message for record in caplog.records if record.name == telemetry.__name__] == [
        "telemetry not sent"
    ]


def test_switched_off(told: WorkerMetrics, environment: Callable[..., None]) -> None:
    collected = Collected()
    with http_collector(collected) as endpoint:
        environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_METRICS_EXPORTER="none")
        start_telemetry("1", told)()
    assert collected.metrics.empty()


def test_missing_package(told: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(CassError, match=r"cass\[telemetry\]: no module opentelemetry"):
        start_telemetry("1", told)


def test_missing_exporter(
    told: WorkerMetrics, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "entry_points", lambda group: EntryPoints())
    with pytest.raises(CassError, match="no package opentelemetry-exporter-otlp-proto-http or "):
        start_telemetry("1", told)
    environment(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    with pytest.raises(CassError, match=r"no package opentelemetry-exporter-otlp-proto-grpc$"):
        start_telemetry("1", told)


@pytest.mark.parametrize(
    ("variable", "text", "named"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be one of http/protobuf, grpc, got "),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "json", "must be one of http/protobuf, grpc, got "),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "must be a number of milliseconds, got 1m"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "must be a number of milliseconds, got 0"),
    ],
)
def test_variable_without_sense(
    told: WorkerMetrics, environment: Callable[..., None], variable: str, text: str, named: str
) -> None:
    environment(**{variable: text})
    with pytest.raises(CassError, match=f"{variable} {named}"):
        start_telemetry("1", told)


def labels(point: Point) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((each.key, each.value.string_value) for each in point.attributes))


def value(point: metrics_pb2.NumberDataPoint) -> float:
    number: float = getattr(point, point.WhichOneof("value"))
    return number


def images(request: otlp.ExportMetricsServiceRequest) -> float:
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    return next(value(m.sum.data_points[0]) for m in metrics if m.name == "cass_images")
