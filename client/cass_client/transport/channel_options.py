"""How the client's connections are kept, spread and repaired: gRPC's options for its channels."""

from __future__ import annotations

import json
from typing import TypeAlias

from cass.contract import SERVICE_NAME

KEEPALIVE_SECONDS = 30.0
"""Silence during a call after which the server is pinged; a server that allows fewer pings, as its
``keepalive_min_seconds`` tells, would end the connection."""
KEEPALIVE_TIMEOUT_SECONDS = 10.0
"""Time for the answer to a ping, before the connection is given up and its calls fail."""

Options: TypeAlias = tuple[tuple[str, int | str], ...]

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A replica that is about to stop says so before it does.
        "healthCheckConfig": {"serviceName": SERVICE_NAME},
    }
)


def channel_options(server_name: str | None = None, through_proxy: bool = True) -> Options:
    """Options of a channel; the server's name is in its certificate, if not the target's host.

    When the server's machine or the network vanishes, a call fails after the two times above
    instead of at its deadline. Calls go to all addresses of the target in turn, except to those
    whose health check reports that they do not serve.
    """
    time, timeout = round(1000 * KEEPALIVE_SECONDS), round(1000 * KEEPALIVE_TIMEOUT_SECONDS)
    options: Options = (
        # What may be sent is the server's decision; what it sends was requested.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Else a forked child may be given its parent's connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", time),
        ("grpc.keepalive_timeout_ms", timeout),
        # The one that is obeyed: gRPC 1.85 waits for this, a minute by default, for any ping.
        ("grpc.http2.ping_timeout_ms", timeout),
        ("grpc.keepalive_permit_without_calls", 0),
        # After two pings without data, gRPC would wait for a minute before the next.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.service_config", _SERVICE_CONFIG),
        # `cass_client.calls.retry` does it, with one budget for all that can fail; and gRPC's way
        # costs each call 13 µs, failed or not.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", int(through_proxy)),
        # A server that comes back, perhaps elsewhere, is found within seconds, not minutes.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    )
    if server_name is not None:
        options += (
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.default_authority", server_name),
        )
    return options
