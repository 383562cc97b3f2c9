"""What a call's metadata says, and what its answer's does: request ids and timings."""

from __future__ import annotations

import itertools
import os
import secrets

from cass.contract import REQUEST_ID_KEY, SERVER_TIMING_KEY, TIMINGS_KEY
from cass_server.observability.call import Metadata

_MAX_LENGTH = 128

# The ids of two processes start differently.
_prefix = f"{secrets.token_hex(4)}-{os.getpid()}"
_count = itertools.count(1)


def request_id(metadata: Metadata) -> str:
    """The caller's ``x-request-id``, else an id of our own.

    Only the first is taken, if it has 1 to 128 characters of printable ASCII. It is what any caller
    may write: for logs, never for decisions.
    """
    value = next((value for key, value in metadata if key == REQUEST_ID_KEY), None)
    if (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_LENGTH
        and value.isascii()
        and value.isprintable()
    ):
        return value
    return f"{_prefix}-{next(_count)}"


def token_of(metadata: Metadata) -> str | bytes:
    """The token of a call, as `TokenFile` takes it from what is written; empty without one."""
    for key, value in metadata:
        if key == "authorization":
            return value.partition(" ")[2].strip(" ") if isinstance(value, str) else value
    return ""


def wants_timings(metadata: Metadata) -> bool:
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

    Example:
        >>> server_timing(0.0015, 0.003, 0.00002)
        (('server-timing', 'queue;dur=1.500, compute;dur=3.000, encode;dur=0.020'),)
    """
    parts = {"queue": queue, "compute": compute, "encode": encode}
    text = ", ".join(f"{name};dur={1e3 * time:.3f}" for name, time in parts.items())
    return ((SERVER_TIMING_KEY, text),)
