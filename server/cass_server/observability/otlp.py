"""Where OpenTelemetry's signals go and whom they tell of, as its environment variables say."""

from __future__ import annotations

import os
import uuid
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cass_core.errors import CassError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

Signal: TypeAlias = Literal["metrics", "traces"]

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def is_switched_off(signal: Signal) -> bool:
    """Whether ``OTEL_METRICS_EXPORTER`` or ``OTEL_TRACES_EXPORTER`` says ``none``."""
    return os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") == "none"


def make_resource(service_version: str) -> Resource:
    """What is told of this process with all that is sent.

    Raises:
        CassError: a package is missing.
    """
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    except ImportError as error:
        raise CassError(f"telemetry needs cass[telemetry]: no module {error.name}") from error
    resource = Resource.create(
        {
            "service.name": "cass-server",
            "service.version": service_version,
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    # What the environment says of the service goes before what is said here.
    return resource.merge(OTELResourceDetector().detect())


def make_exporter(signal: Signal) -> Any:
    """For the protocol that is asked for, else for the first that is installed.

    Raises:
        CassError: the package for it is missing, or there is no such protocol.
    """
    # As OpenTelemetry has it: the narrower one goes first, and an empty one is none.
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    if not os.environ.get(variable):
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    asked = os.environ.get(variable)
    if asked and asked not in _PROTOCOLS:
        raise CassError(f"{variable} must be one of {', '.join(_PROTOCOLS)}, got {asked}")
    names = [_PROTOCOLS[asked]] if asked else list(_PROTOCOLS.values())
    found = entry_points(group=f"opentelemetry_{signal}_exporter")
    for name in names:
        if name in found.names:
            return found[name].load()()
    packages = " or ".join(f"opentelemetry-exporter-{name.replace('_', '-')}" for name in names)
    raise CassError(f"telemetry needs cass[telemetry]: no package {packages}")
