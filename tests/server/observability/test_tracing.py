"""The traces by OTLP of real servers, called by the SDK and by plain clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry import trace
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider

from cass.v1 import cass_pb2 as pb
from cass_client import AsyncCassClient, CassClient, MaskRequest, MaskSpec
from cass_client.transport.trace_context import trace_metadata
from cass_core.errors import CassError
from cass_server.observability import tracing
from cass_server.observability.call import Call
from cass_server.observability.tracing import start_traces
from tests.server.support.collector import Collected, grpc_collector, http_collector
from tests.server.support.details import fails
from tests.server.support.load import numbered_request, service_of
from tests.server.support.processes import LIMIT
from tests.support.servers import serving

BOXES = [np.array([[4, 4, 12, 28], [0, 0, 8, 8]], np.float32), None, np.array([[1, 1, 9, 9]])]
ASKED: dict[str, Any] = {
    "image_size": (32, 32),
    "feature_map": (4, 8),
    "spec": MaskSpec(patch_size=1),
}
PARTS = ["queue", "compute", "encode"]
Spans = list[trace_pb2.Span]


@contextlib.contextmanager
def traced(
    collector: Callable[[Collected], contextlib.AbstractContextManager[str]] = http_collector,
    *arguments: str,
    **variables: str,
) -> Iterator[tuple[str, Spans]]:
    """The address of a server, and the spans that it has sent once it has ended."""
    collected, spans = Collected(), Spans()
    with collector(collected) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "masks", **variables}
        with serving("--telemetry", *arguments, env=env) as server:
            yield server.address, spans
            assert server.stop() == 0
    while not collected.traces.empty():
        for sent in collected.traces.get().resource_spans:
            names = {each.key: each.value.string_value for each in sent.resource.attributes}
            assert names["service.name"] == "masks"
            spans += [span for scope in sent.scope_spans for span in scope.spans]


def parent(number: int) -> list[tuple[str, str]]:
    """The metadata of a call whose trace and span have this number."""
    return [("traceparent", f"00-{number:032x}-{number:016x}-01")]


@pytest.fixture(
    scope="module",
    params=[(http_collector, "http/protobuf"), (grpc_collector, "grpc")],
    ids=["http", "grpc"],
)
def recorded(request: pytest.FixtureRequest) -> tuple[Spans, list[str]]:
    """The spans of a few calls, and the span ids of the parents of those by the SDK."""
    collector, protocol = request.param
    bad = numbered_request(0)
    bad.mask_spec.patch_size = 0
    asked = [pb.StreamMasksRequest(request=numbered_request(number)) for number in range(3)]
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a training program")
    parents = []
    with (
        traced(collector, OTEL_EXPORTER_OTLP_PROTOCOL=protocol) as (address, spans),
        service_of(address) as stub,
        CassClient(address) as client,
    ):
        stub.GenerateMask(numbered_request(3, images=2), metadata=parent(1), timeout=LIMIT)
        with fails("INVALID_ARGUMENT"):
            stub.GenerateMask(bad, timeout=LIMIT)
        answers = stub.StreamMasks(iter(asked), metadata=parent(2), timeout=LIMIT)
        assert len(list(answers)) == 3

        async def ask() -> None:
            async with AsyncCassClient(address) as client:
                await client.generate_mask(BOXES, **ASKED)

        for each in (
            lambda: client.generate_mask(BOXES, **ASKED),
            lambda: client.generate_mask_future(BOXES, **ASKED).result(LIMIT),
            lambda: list(client.stream_masks([MaskRequest(BOXES, **ASKED)])),
            lambda: asyncio.run(ask()),
        ):
            span = tracer.start_span("a step of training")
            with trace.use_span(span):
                each()
            parents.append(format(span.get_span_context().span_id, "016x"))
    return spans, parents


def attributes(span: trace_pb2.Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def below(spans: Spans, number: int) -> Spans:
    """Of the call with this parent."""
    return [span for span in spans if span.parent_span_id.hex() == f"{number:016x}"]


def children(spans: Spans, span: trace_pb2.Span) -> Spans:
    found = [other for other in spans if other.parent_span_id == span.span_id]
    return sorted(found, key=lambda other: PARTS.index(other.name))


def test_a_call_below_the_callers_span(recorded: tuple[Spans, list[str]]) -> None:
    spans, _ = recorded
    (call,) = below(spans, 1)
    assert call.name == "cass.v1.CassService/GenerateMask"
    assert call.trace_id.hex() == f"{1:032x}"
    assert call.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert attributes(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": "cass.v1.CassService/GenerateMask",
        "rpc.response.status_code": "OK",
        "cass.images": 2,
        "cass.boxes": 2,
        "cass.patches": 512,
    }
    parts = children(spans, call)
    assert [part.name for part in parts] == PARTS
    # One after the other, within the call.
    times = [
        time for part in parts for time in (part.start_time_unix_nano, part.end_time_unix_nano)
    ]
    assert times == sorted(times)
    assert call.start_time_unix_nano == times[0] < times[-1] <= call.end_time_unix_nano


def test_what_is_refused(recorded: tuple[Spans, list[str]]) -> None:
    """The caller's fault is none of the server's."""
    (call,) = (span for span in recorded[0] if not span.parent_span_id)
    assert attributes(call)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert call.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert children(recorded[0], call) == []


def test_each_request_of_a_stream_has_a_span(recorded: tuple[Spans, list[str]]) -> None:
    spans, _ = recorded
    calls = below(spans, 2)
    assert [call.name for call in calls] == ["cass.v1.CassService/StreamMasks"] * 3
    assert [len(children(spans, call)) for call in calls] == [3, 3, 3]


def test_calls_of_the_sdk_are_in_the_trace_of_their_caller(
    recorded: tuple[Spans, list[str]],
) -> None:
    spans, parents = recorded
    asked = [span for span in spans if attributes(span).get("cass.boxes") == 3]
    assert [span.parent_span_id.hex() for span in asked] == parents


@pytest.mark.slow
def test_workers_send_theirs() -> None:
    with (
        traced(http_collector, "--workers", "2") as (address, spans),
        CassClient(address) as client,
    ):
        client.generate_mask(BOXES, **ASKED)
    assert "cass.v1.CassService/GenerateMask" in {span.name for span in spans}


@pytest.mark.parametrize(
    "variable", ["OTEL_TRACES_EXPORTER=none", "OTEL_TRACES_SAMPLER=always_off"]
)
def test_nothing_is_sent_where_nothing_is_to_be(variable: str) -> None:
    with traced(**dict([variable.split("=")])) as (address, spans), CassClient(address) as client:
        client.generate_mask(BOXES, **ASKED)
    assert not spans


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(CassError, match=r"cass\[telemetry\]: no module opentelemetry"):
        start_traces("1")


def test_missing_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "entry_points", lambda group: EntryPoints())
    with pytest.raises(CassError, match="no package opentelemetry-exporter-otlp-proto-http or "):
        start_traces("1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(CassError, match=r"no package opentelemetry-exporter-otlp-proto-grpc$"):
        start_traces("1")


@pytest.mark.parametrize(
    ("variable", "protocol"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "json"),
    ],
)
def test_unknown_protocol(variable: str, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, protocol)
    reason = f"{variable} must be one of http/protobuf, grpc, got {protocol}"
    with pytest.raises(CassError, match=reason):
        start_traces("1")


def test_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end does not wait for a collector that is not there."""
    monkeypatch.setattr(tracing, "_STOP_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        traces = start_traces("1")
        assert traces is not None
        traces.record(Call("GenerateMask", (), 0.0))
        traces.close()


def test_what_grpc_cannot_carry_does_not_fail_the_call(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some propagators write capitals, or what no header can hold."""

    def inject(carrier: dict[str, str]) -> None:
        carrier.update({"X-Amzn-Trace-Id": "Root=1", "baggage": "käse", "other": "a\nb"})

    monkeypatch.setattr("opentelemetry.propagate.inject", inject)
    assert list(trace_metadata()) == [("x-amzn-trace-id", "Root=1")]
    with CassClient(address) as client:
        client.generate_mask(BOXES, **ASKED)
