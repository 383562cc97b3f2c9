"""Sends the caller's trace to the server, where the program uses OpenTelemetry."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def trace_metadata() -> Iterable[tuple[str, str]]:
    """Metadata by which a server's spans go below the current one: ``traceparent`` and its like.

    Nothing in a program that does not use OpenTelemetry, which this package neither needs nor
    loads.

    Example:
        >>> list(trace_metadata())
        []
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    # As gRPC has keys and values; with others the call would fail.
    return [
        (key.lower(), value)
        for key, value in carrier.items()
        if value.isascii() and value.isprintable()
    ]
