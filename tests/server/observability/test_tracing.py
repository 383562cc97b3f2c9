"""The traces by OTLP of real servers, called by the SDK and by plain clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from typing import Any

import grpc
import numpy as np
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry import trace
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_client import AsyncCassClient, CassClient, MaskRequest, MaskSpec
from cass_client.transport.trace_context import trace_metadata
from cass_core.errors import CassError
from cass_server.observability import tracing
from cass_server.observability.call import Call
from cass_server.observability.tracing import start_traces
from tests.server.support.collector import Collected, grpc_collector, http_collector
from tests.server.support.load import numbered_request
from tests.server.support.processes import LIMIT
from tests.support.servers import serving

BOXES = [np.array([[4, 4, 12, 28], [0, 0, 8, 8]], np.float32), None, np.array([[1, 1, 9, 9]])]
ASKED: dict[str, Any] = {"image_size": (32, 32), "feature_map": (4, 8)}
SPEC = MaskSpec(patch_size=1)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARTS = ["queue", "compute", "encode"]


@contextlib.contextmanager
def traced(
    collector: Callable[[Collected], contextlib.AbstractContextManager[str]] = http_collector,
    *arguments: str,
    **variables: str,
) -> Iterator[tuple[str, list[trace_pb2.Span]]]:
    """The address of a server, and the spans that it has sent once it has ended."""
    collected, spans = Collected(), list[trace_pb2.Span]()
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


def attributes(span: trace_pb2.Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def children(spans: list[trace_pb2.Span], span: trace_pb2.Span) -> list[trace_pb2.Span]:
    found = [other for other in spans if other.parent_span_id == span.span_id]
    return sorted(found, key=lambda other: PARTS.index(other.name))


@pytest.mark.parametrize(
    ("collector", "protocol"), [(http_collector, "http/protobuf"), (grpc_collector, "grpc")]
)
def test_a_call_below_the_callers_span(collector: Any, protocol: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with (
        traced(collector, **variables) as (address, spans),
        grpc.insecure_channel(address) as channel,
    ):
        cass_pb2_grpc.CassServiceStub(channel).GenerateMask(
            numbered_request(3, images=2), metadata=[("traceparent", PARENT)], timeout=LIMIT
        )
    (call,) = [span for span in spans if span.name == "cass.v1.CassService/GenerateMask"]
    assert [call.trace_id.hex(), call.parent_span_id.hex()] == PARENT.split("-")[1:3]
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
    assert len(spans) == 1 + len(parts)
    # One after the other, within the call.
    times = [
        time for part in parts for time in (part.start_time_unix_nano, part.end_time_unix_nano)
    ]
    assert times == sorted(times)
    assert call.start_time_unix_nano == times[0] < times[-1] <= call.end_time_unix_nano


def test_what_is_refused_and_what_fails() -> None:
    bad = numbered_request(0)
    bad.mask_spec.patch_size = 0
    with (
        traced() as (address, spans),
        grpc.insecure_channel(address) as channel,
        pytest.raises(grpc.RpcError),
    ):
        cass_pb2_grpc.CassServiceStub(channel).GenerateMask(bad, timeout=LIMIT)
    (call,) = spans
    assert attributes(call)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    # The caller's fault is none of the server's.
    assert call.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert not call.parent_span_id


def test_each_request_of_a_stream_has_a_span() -> None:
    asked = [pb.StreamMasksRequest(request=numbered_request(number)) for number in range(3)]
    with traced() as (address, spans), grpc.insecure_channel(address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        calls = stub.StreamMasks(iter(asked), metadata=[("traceparent", PARENT)], timeout=LIMIT)
        assert len(list(calls)) == 3
    found = [span for span in spans if span.name == "cass.v1.CassService/StreamMasks"]
    assert {span.parent_span_id.hex() for span in found} == {PARENT.split("-")[2]}
    assert [len(children(spans, span)) for span in found] == [3, 3, 3]


def test_workers_send_theirs() -> None:
    with (
        traced(http_collector, "--workers", "2") as (address, spans),
        CassClient(address) as client,
    ):
        client.generate_mask(BOXES, spec=SPEC, **ASKED)
    assert "cass.v1.CassService/GenerateMask" in {span.name for span in spans}


@pytest.mark.parametrize(
    "variable", ["OTEL_TRACES_EXPORTER=none", "OTEL_TRACES_SAMPLER=always_off"]
)
def test_nothing_is_sent_where_nothing_is_to_be(variable: str) -> None:
    with traced(**dict([variable.split("=")])) as (address, spans), CassClient(address) as client:
        client.generate_mask(BOXES, spec=SPEC, **ASKED)
    assert not spans


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(CassError, match=r"cass\[telemetry\]: no module opentelemetry"):
        start_traces("1", "cass")


def test_missing_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "entry_points", lambda group: EntryPoints())
    with pytest.raises(CassError, match="no package opentelemetry-exporter-otlp-proto-http or "):
        start_traces("1", "cass")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(CassError, match=r"no package opentelemetry-exporter-otlp-proto-grpc$"):
        start_traces("1", "cass")


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
        start_traces("1", "cass")


@pytest.mark.timeout(60)
def test_nobody_collects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end does not wait for a collector that is not there."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        traces = start_traces("1", "cass")
        assert traces is not None
        traces.record(Call("GenerateMask", (), 0.0))
        traces.close()


def test_what_grpc_cannot_carry_does_not_fail_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some propagators write capitals, or what no header can hold."""

    def inject(carrier: dict[str, str]) -> None:
        carrier.update({"X-Amzn-Trace-Id": "Root=1", "baggage": "käse", "other": "a\nb"})

    monkeypatch.setattr("opentelemetry.propagate.inject", inject)
    assert list(trace_metadata()) == [("x-amzn-trace-id", "Root=1")]
    with serving() as server, CassClient(server.address) as client:
        client.generate_mask(BOXES, spec=SPEC, **ASKED)


def test_calls_of_the_sdk_are_in_the_trace_of_their_caller() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a training program")

    async def ask(address: str) -> None:
        async with AsyncCassClient(address) as client:
            await client.generate_mask(BOXES, spec=SPEC, **ASKED)

    def stream(client: CassClient) -> None:
        assert len(list(client.stream_masks([MaskRequest(BOXES, spec=SPEC, **ASKED)]))) == 1

    parents = []
    with traced() as (address, spans), CassClient(address) as client:
        for each in (
            lambda: client.generate_mask(BOXES, spec=SPEC, **ASKED),
            lambda: client.generate_mask_future(BOXES, spec=SPEC, **ASKED).result(LIMIT),
            lambda: stream(client),
            lambda: asyncio.run(ask(address)),
        ):
            span = tracer.start_span("a step of training")
            with trace.use_span(span):
                each()
            parents.append(format(span.get_span_context().span_id, "016x"))
    calls = [span for span in spans if span.kind == trace_pb2.Span.SPAN_KIND_SERVER]
    asked = [call for call in calls if attributes(call).get("cass.boxes") == 3]
    assert [call.parent_span_id.hex() for call in asked] == parents
