"""How the client's connections are kept: gRPC's options for its channels."""

from __future__ import annotations

KEEPALIVE_SECONDS = 30.0
"""Silence during a call after which the server is pinged; a server that allows fewer pings, as its
``keepalive_min_seconds`` tells, would end the connection."""
KEEPALIVE_TIMEOUT_SECONDS = 10.0
"""Time for the answer to a ping, before the connection is given up and its calls fail."""


def channel_options() -> tuple[tuple[str, int], ...]:
    """Options of a channel.

    When the server's machine or the network has gone without a word, a call fails after the two
    times above instead of at its deadline. Nothing is sent while there is no call: a connection
    that nobody uses may well be lost, and proxies end those that are pinged for nothing.
    """
    time, timeout = (_milliseconds(s) for s in (KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS))
    return (
        # What may be sent is the server's decision; what it sends was asked for.
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
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
