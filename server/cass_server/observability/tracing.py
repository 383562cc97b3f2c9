"""A span for each request, sent by OTLP to an OpenTelemetry collector.

Spans are made once a request is over, from the times that its metrics use: nothing has to
be passed on during the request, and an unsampled one costs next to nothing.
"""

from __future__ import annotations

import os
import time
import uuid
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any

from cass_core.errors import CassError
from cass_server.observability.call import Call
from cass_server.observability.methods import full_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

_STOP_SECONDS = 1.0
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
# What a server's span counts as its own fault:
# https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Traces:
    """Records requests that are over, each as a span below the caller's if any."""

    def __init__(self, provider: TracerProvider) -> None:
        # Spans are made where these packages are installed.
        from opentelemetry import propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("cass_server")
        self._extract = propagate.extract
        self._trace = trace

    def record(self, call: Call) -> None:
        """Record a request that ends now, below the caller's ``traceparent`` if it sent one."""
        carrier = {key: value for key, value in call.metadata if isinstance(value, str)}
        end = time.time_ns()
        start = end - int((time.perf_counter() - call.started) * 1e9)
        name = full_name(call.method)
        attributes: dict[str, AttributeValue] = {
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "rpc.response.status_code": call.code,
        }
        if call.size is not None:
            images, boxes, patches = call.size
            attributes |= {"cass.images": images, "cass.boxes": boxes, "cass.patches": patches}
        span = self._tracer.start_span(
            name, self._extract(carrier), self._trace.SpanKind.SERVER, attributes, start_time=start
        )
        if call.code in _FAULTS:
            span.set_status(self._trace.StatusCode.ERROR)
        if call.size is not None and span.is_recording():
            within = self._trace.set_span_in_context(span)
            parts = {"queue": call.queue, "compute": call.compute, "encode": call.encode}
            at = start
            for part, took in parts.items():
                child = self._tracer.start_span(part, within, start_time=at)
                at += int(took * 1e9)
                child.end(at)
        span.end(end)

    def close(self) -> None:
        """Sends the remaining spans; waits a second at most."""
        thread = Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(_STOP_SECONDS)


def start_traces(service_version: str) -> Traces | None:
    """Sends spans in batches, from a thread of OpenTelemetry's.

    OpenTelemetry's environment variables configure it: ``OTEL_EXPORTER_OTLP_ENDPOINT``,
    ``OTEL_EXPORTER_OTLP_PROTOCOL`` (``http/protobuf`` or ``grpc``), ``OTEL_SERVICE_NAME``,
    ``OTEL_TRACES_SAMPLER`` and others. None if ``OTEL_TRACES_EXPORTER`` is ``none``.

    Raises:
        CassError: a package is missing, or a variable has an unknown value.
    """
    if os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise CassError(f"telemetry needs cass[telemetry]: no module {error.name}") from error
    attributes = {
        "service.name": "cass-server",
        "service.version": service_version,
        "service.instance.id": str(uuid.uuid4()),
    }
    # Those in the environment take precedence.
    resource = Resource.create(attributes).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return Traces(provider)


def _exporter() -> Any:
    """An exporter of the protocol in the environment, else of the first that is installed."""
    # As OpenTelemetry specifies: the narrower variable first; an empty one counts as unset.
    variable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    if not os.environ.get(variable):
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = os.environ.get(variable)
    if protocol and protocol not in _PROTOCOLS:
        raise CassError(f"{variable} must be one of {', '.join(_PROTOCOLS)}, got {protocol}")
    names = [_PROTOCOLS[protocol]] if protocol else list(_PROTOCOLS.values())
    found = entry_points(group="opentelemetry_traces_exporter")
    for name in names:
        if name in found.names:
            return found[name].load()()
    packages = " or ".join(f"opentelemetry-exporter-{name.replace('_', '-')}" for name in names)
    raise CassError(f"telemetry needs cass[telemetry]: no package {packages}")
