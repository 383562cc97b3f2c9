"""Where the time of a call went, for callers who request it."""

from __future__ import annotations

from collections.abc import Iterable

from cass.contract import SERVER_TIMING_KEY, TIMINGS_KEY


def wants_timings(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether a call requests its timings."""
    for key, _ in metadata:  # noqa: SIM110 - any() would make a generator for each call
        if key == TIMINGS_KEY:
            return True
    return False


def server_timing(queue: float, compute: float, encode: float) -> tuple[tuple[str, str], ...]:
    """Metadata in the form of HTTP's Server-Timing (https://www.w3.org/TR/server-timing/).

    Args:
        queue: seconds from the call's arrival to computing.
        compute: seconds of the computation.
        encode: seconds of laying out the answer.

    Returns:
        Of one entry, with milliseconds.

    Example:
        >>> server_timing(0.0015, 0.003, 0.00002)
        (('server-timing', 'queue;dur=1.500, compute;dur=3.000, encode;dur=0.020'),)
    """
    parts = {"queue": queue, "compute": compute, "encode": encode}
    return (
        (
            SERVER_TIMING_KEY,
            ", ".join(f"{name};dur={1e3 * time:.3f}" for name, time in parts.items()),
        ),
    )
