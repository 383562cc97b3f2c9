"""gRPC's options for a server: message sizes, connections, keepalive."""

from __future__ import annotations

from collections.abc import Sequence

from cass_server.config.settings import Settings

_NEVER = 2**31 - 1  # ms, as gRPC has it


def options(settings: Settings, *, shared: bool) -> Sequence[tuple[str, int]]:
    """gRPC's options for a server.

    Unless the port is shared by several processes, a second server on it fails.
    """
    age = settings.max_connection_age_seconds
    grace = settings.max_connection_age_grace_seconds
    return (
        ("grpc.max_receive_message_length", int(settings.max_message_bytes)),
        # Identity alone: a compressed message may be a thousand times as large as what is sent.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Bounded by the patches of a request.
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_connection_age_ms", _milliseconds(age) if age else _NEVER),
        ("grpc.max_connection_age_grace_ms", _milliseconds(grace)),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        # The one that is obeyed: gRPC 1.85 waits for this, a minute by default, for any ping.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(settings.keepalive_min_client_seconds),
        ),
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
