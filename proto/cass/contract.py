"""What both sides of the wire agree on beside the messages."""

from __future__ import annotations

from typing import Final

from cass.v1 import cass_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["CassService"]
SERVICE_NAME: Final[str] = SERVICE.full_name

TIMINGS_KEY: Final = "cass-timings"
"""Metadata of a call that asks for its timings, whatever the value."""
SERVER_TIMING_KEY: Final = "server-timing"
"""Trailing metadata with the timings, in the form of HTTP's Server-Timing
(https://www.w3.org/TR/server-timing/): queue, compute and encode in milliseconds."""
REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata, of a call and of its answer, by which the two sides' logs are put together."""

DEFAULT_LIMITS: Final = pb.Limits(
    message_bytes=64 << 20,
    images=4096,
    boxes=1 << 18,
    patches=1 << 24,
    feature_maps=16,
    requests_in_flight=24,
    queue_bytes=512 << 20,
    streams_per_connection=16,
    keepalive_min_seconds=10.0,
    work=5 << 30,
)
"""What a server takes unless it is set otherwise."""
