"""How often and when a call is tried again within its deadline."""

from __future__ import annotations

import random
import time

import grpc

from cass_client.errors import NoReplicas, Overloaded, ServerError, Timeout, Unavailable
from cass_core.errors import CassError

# The first try may take no longer than this share of the time, so that another replica has time to
# answer for one that hangs.
_FIRST_SHARE = 0.5
# A shorter try cannot be answered.
_LEAST_SECONDS = 1e-3
# After a server dropped a call that it had not taken in yet, as gRPC does in one that stops
# (https://github.com/grpc/grpc/issues/41785) and in one that is flooded: twice as long each time.
_CANCELLED_DELAY_SECONDS = 0.05
_LEAST_DELAY_SECONDS = 0.01
# After a refusal that does not say when to come back, such as gRPC's own; at most, twice as long
# each time.
_REFUSED_DELAY_SECONDS = 0.02
_LONGEST_REFUSED_DELAY_SECONDS = 1.0
# Another replica may answer at once; a server that is started again takes its time. Three seconds
# in all.
_UNAVAILABLE_DELAYS_SECONDS = (0.02, 0.2, 0.4, 0.8, 1.6)
# A service without replicas is waited for about as long as a server that cannot be reached.
_NO_REPLICAS_DELAY_SECONDS = 0.05
_NO_REPLICAS_SECONDS = 3.0
_JITTER = 0.25


class Attempts:
    """The tries of one call, which may be repeated since it is a pure function of its request.

    gRPC itself repeats none, see `cass_client.transport.channel_options`.
    """

    started: float
    """When the last try did, by `time.monotonic`."""
    was_unavailable = 0
    """How often the server could not be reached."""
    _is_cut = False
    _after_refused = _REFUSED_DELAY_SECONDS
    _after_cancelled = _CANCELLED_DELAY_SECONDS

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + seconds
        self._first = _FIRST_SHARE * seconds

    def left(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(self._end - time.monotonic(), _LEAST_SECONDS)

    def timeout(self) -> float:
        """Starts the next try; the seconds that it may take."""
        self.started = time.monotonic()
        left = max(self._end - self.started, _LEAST_SECONDS)
        self._is_cut = self._first > 0
        if self._is_cut:
            left, self._first = min(left, self._first), 0.0
        return left

    def delay_after(self, error: CassError) -> float:
        """Seconds to wait before the next try; raises ``error`` if there is none."""
        left = self._end - time.monotonic() - _LEAST_SECONDS
        if isinstance(error, Timeout) and self._is_cut:
            delay = 0.0
        elif isinstance(error, Overloaded) and not error.retry_delay:
            delay = self._after_refused * random.uniform(0.5, 1)
            self._after_refused = min(2 * self._after_refused, _LONGEST_REFUSED_DELAY_SECONDS)
        elif isinstance(error, Overloaded):
            # Not sooner than the server says; not all at the same moment.
            delay = max(error.retry_delay, _LEAST_DELAY_SECONDS) * (1 + _JITTER * random.random())
        elif _was_cancelled(error):
            delay = self._after_cancelled * (1 + _JITTER * random.random())
            self._after_cancelled *= 2
        elif isinstance(error, NoReplicas):
            if error.is_certain and time.monotonic() > self._began + _NO_REPLICAS_SECONDS:
                raise error
            delay = _NO_REPLICAS_DELAY_SECONDS * (1 + _JITTER * random.random())
            self._first = _FIRST_SHARE * left  # nothing was sent: the first try is yet to come
        elif isinstance(error, Unavailable) and self.was_unavailable < len(
            _UNAVAILABLE_DELAYS_SECONDS
        ):
            delay = _UNAVAILABLE_DELAYS_SECONDS[self.was_unavailable]
            delay *= 1 + _JITTER * random.random()
            self.was_unavailable += 1
            self._first = _FIRST_SHARE * left  # likewise
        else:
            raise error
        if delay >= left:
            raise error
        return delay


def _was_cancelled(error: CassError) -> bool:
    """By the server or a proxy: a caller who cancels a call does not wait for it."""
    cause = error.__cause__
    return (
        isinstance(error, ServerError)
        and isinstance(cause, grpc.RpcError)
        and cause.code() is grpc.StatusCode.CANCELLED
    )
