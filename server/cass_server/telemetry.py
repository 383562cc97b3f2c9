"""OpenTelemetry metrics of every call, measured inside gRPC and sent by OTLP.

gRPC's own plugin counts a grpc.aio server's calls, their time from the transport's view, and their
bytes. It makes no traces: in grpcio-observability 1.85 the OpenTelemetry plugin never switches its
tracing on, and its exporter would drop the spans.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from cass.v1 import cass_pb2 as pb
from cass_core.errors import CassError
from cass_server.metrics import SECONDS

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

_SERVICE = pb.DESCRIPTOR.services_by_name["CassService"]
_METHODS = frozenset(f"{_SERVICE.full_name}/{method.name}" for method in _SERVICE.methods)

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

_FLUSH_MILLISECONDS = 5_000

# OpenTelemetry's own bounds, 0 to 10,000, are made for milliseconds. Bytes as in gRPC's A66:
# https://github.com/grpc/proposal/blob/master/A66-otel-stats.md
_BYTES = (0, *(4**power for power in range(5, 17)))


def start_telemetry(service_version: str) -> Callable[[], None]:
    """Send the metrics of the gRPC servers that are made from now on in this process.

    Where to, how often and under which names is told by OpenTelemetry's environment variables, as
    in ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_PROTOCOL`` (``http/protobuf`` or
    ``grpc``), ``OTEL_METRIC_EXPORT_INTERVAL`` and ``OTEL_SERVICE_NAME``.

    Args:
        service_version: of this package, an attribute of all that is sent.

    Returns:
        What ends it: to be called once the servers have stopped. Sends what is left, for which it
        blocks for half a second, and up to 5 s more if nobody takes it.

    Raises:
        CassError: a package is missing, or a protocol is unknown.
    """
    try:
        from grpc_observability import OpenTelemetryPlugin
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.metrics.view import (
            DropAggregation,
            ExplicitBucketHistogramAggregation,
            View,
        )
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    except ImportError as error:
        raise CassError(f"telemetry needs cass[telemetry]: no module {error.name}") from error
    resource = Resource.create(
        {
            "service.name": "cass-server",
            "service.version": service_version,
            # The processes of one server are told apart.
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    provider = MeterProvider(
        [PeriodicExportingMetricReader(_exporter())],
        # What the environment says of the service goes before what is said here.
        resource.merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,
        views=[
            # The only calls that a server makes are the exporter's.
            View(instrument_name="grpc.client.*", aggregation=DropAggregation()),
            View(
                instrument_name="grpc.server.call.duration",
                aggregation=ExplicitBucketHistogramAggregation(SECONDS),
            ),
            View(
                instrument_name="grpc.server.call.*_size",
                aggregation=ExplicitBucketHistogramAggregation(_BYTES),
            ),
        ],
    )
    # Of other services the name is "other": anybody can call a method that does not exist.
    plugin = OpenTelemetryPlugin(
        meter_provider=provider, generic_method_attribute_filter=_METHODS.__contains__
    )
    plugin.register_global()

    def stop() -> None:
        plugin.deregister_global()
        provider.shutdown(_FLUSH_MILLISECONDS)

    return stop


def _exporter() -> MetricExporter:
    """For the protocol that is asked for, else for the first that is installed."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
    if variable not in os.environ:
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    asked = os.environ.get(variable)
    if asked is not None and asked not in _PROTOCOLS:
        raise CassError(f"{variable} must be one of {', '.join(_PROTOCOLS)}, got {asked}")
    names = [_PROTOCOLS[asked]] if asked else list(_PROTOCOLS.values())
    found = entry_points(group="opentelemetry_metrics_exporter")
    for name in names:
        if name in found.names:
            exporter: MetricExporter = found[name].load()()
            return exporter
    packages = " or ".join(f"opentelemetry-exporter-{name.replace('_', '-')}" for name in names)
    raise CassError(f"telemetry needs cass[telemetry]: no package {packages}")
