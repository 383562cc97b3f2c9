"""OpenTelemetry's metrics, from a real grpc.aio server to a collector that reads OTLP."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoints

import grpc
import pytest

from cass_core.errors import CassError
from cass_server import telemetry
from cass_server.telemetry import start_telemetry

pytest.importorskip("grpc_observability")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2 as otlp,
)
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2_grpc as otlp_grpc,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2

SERVER = """
import asyncio
import grpc
from cass_server.telemetry import start_telemetry

SERVICE = "cass.v1.CassService"

async def answer(data, context):
    return bytes(5000)

async def main():
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"GenerateMask": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(3):
            await channel.unary_unary(f"/{SERVICE}/GenerateMask")(bytes(300))
        try:
            await channel.unary_unary("/not/there")(b"")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(None)

stop = start_telemetry("1.2.3")
asyncio.run(main())
stop()
"""

GENERATE_MASK = ("cass.v1.CassService/GenerateMask", "OK")
OTHER = ("other", "UNIMPLEMENTED")

Received = list[otlp.ExportMetricsServiceRequest]


@contextlib.contextmanager
def http_collector(received: Received) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                received.append(otlp.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def grpc_collector(received: Received) -> Iterator[str]:
    class Servicer(otlp_grpc.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802
            received.append(request)
            return otlp.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    otlp_grpc.add_MetricsServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("collector", "protocol"),
    [(http_collector, None), (http_collector, "http/protobuf"), (grpc_collector, "grpc")],
)
@pytest.mark.timeout(60)
def test_metrics_of_a_server(
    collector: Callable[[Received], contextlib.AbstractContextManager[str]], protocol: str | None
) -> None:
    received: Received = []
    with collector(received) as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "masks"}
        if protocol is not None:
            environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
        run(SERVER, environment)
    # What is sent are sums since the start: the last message has it all.
    (resource,) = received[-1].resource_metrics
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert attributes["service.name"] == "masks"
    assert attributes["service.version"] == "1.2.3"
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert set(metrics) == {
        "grpc.server.call.started",
        "grpc.server.call.duration",
        "grpc.server.call.rcvd_total_compressed_message_size",
        "grpc.server.call.sent_total_compressed_message_size",
    }
    started = metrics["grpc.server.call.started"].sum.data_points
    assert {labels(point): point.as_int for point in started} == {
        (GENERATE_MASK[0], ""): 3,
        (OTHER[0], ""): 1,
    }
    got = points(metrics["grpc.server.call.rcvd_total_compressed_message_size"])
    assert (got[GENERATE_MASK].count, got[GENERATE_MASK].sum) == (3, 900)
    sent = points(metrics["grpc.server.call.sent_total_compressed_message_size"])
    assert (sent[GENERATE_MASK].count, sent[GENERATE_MASK].sum) == (3, 15000)
    # 5000 bytes lie between 4096 and 16384.
    assert list(sent[GENERATE_MASK].bucket_counts)[:4] == [0, 0, 0, 3]
    took = points(metrics["grpc.server.call.duration"])
    assert set(took) == {GENERATE_MASK, OTHER}
    assert took[GENERATE_MASK].count == 3
    assert 5e-5 in took[GENERATE_MASK].explicit_bounds


@pytest.mark.timeout(60)
def test_nobody_collects() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run(SERVER, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"})


@pytest.mark.parametrize(
    ("module", "named"),
    [("grpc_observability", "no module grpc_observability"), ("opentelemetry.sdk", "no module")],
)
def test_missing_package(monkeypatch: pytest.MonkeyPatch, module: str, named: str) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CassError, match=rf"cass\[telemetry\]: {named}"):
        start_telemetry("1")


def test_missing_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "entry_points", lambda group: EntryPoints())
    with pytest.raises(CassError, match="opentelemetry-exporter-otlp-proto-http or "):
        start_telemetry("1")


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
)
def test_unknown_protocol(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http/json")
    with pytest.raises(CassError, match=f"{variable} must be one of http/protobuf, grpc, got"):
        start_telemetry("1")


def run(program: str, environment: dict[str, str]) -> None:
    """In a process: the plugin acts on all servers of one."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def labels(point: metrics_pb2.NumberDataPoint | metrics_pb2.HistogramDataPoint) -> tuple[str, str]:
    """Method and status."""
    found = {each.key: each.value.string_value for each in point.attributes}
    return found["grpc.method"], found.get("grpc.status", "")


def points(
    metric: metrics_pb2.Metric,
) -> dict[tuple[str, str], metrics_pb2.HistogramDataPoint]:
    return {labels(point): point for point in metric.histogram.data_points}
