"""Local answers while the server cannot be reached, so that training never stops."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from cass_client.calls.unary import request_info
from cass_client.errors import Unauthenticated
from cass_client.transport.connection import Connection
from cass_client.transport.effects import Compute, Effects, Probe
from cass_core.errors import CassError, InvalidRequest

T = TypeVar("T")
_PROBE_SECONDS = 5.0


class FallbackWarning(RuntimeWarning):
    """The server cannot be reached; the same numbers come from this process."""


def with_fallback(connection: Connection, remote: Effects[T], local: Callable[[], T]) -> Effects[T]:
    """What the server answers, or the same computed here if it does not.

    A wrong request and a refused caller are errors all the same. While the server is out no call
    waits for it: every now and then it is probed in the background.
    """
    if connection.breaker.is_open:
        if connection.breaker.take_probe():
            yield Probe(lambda: _probe(connection))
    else:
        try:
            answer = yield from remote
        except (InvalidRequest, Unauthenticated):
            raise
        except CassError as error:
            if connection.breaker.failed():
                # Not by `warn`, which shows the same text once: each outage is reported.
                warnings.warn_explicit(
                    f"{error}; masks and losses are computed in this process until it is back",
                    FallbackWarning,
                    "cass_client",  # no line of ours is what this is about
                    0,
                    registry={},
                )
        else:
            connection.breaker.worked()
            return answer
    connection.local_answers += 1
    computed: T = yield Compute(local)
    return computed


def _probe(connection: Connection) -> Effects[None]:
    try:
        yield from request_info(connection, min(connection.timeout, _PROBE_SECONDS))
    except CassError:
        connection.re_resolve(time.monotonic())
        connection.breaker.failed()
        raise
    connection.breaker.probed()
