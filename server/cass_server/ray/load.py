"""The load of a worker process, from its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from cass_server.observability.families import SECONDS
from cass_server.observability.methods import METHODS
from cass_server.observability.metrics import STARTS, Metrics

_FIRST = STARTS["cass_request_duration_seconds"]
_WIDTH = len(SECONDS) + 2
# Each method's histogram ends with its sum.
_SUMS = range(_FIRST + _WIDTH - 1, _FIRST + _WIDTH * len(METHODS), _WIDTH)


class Load:
    """The mean number of requests in flight.

    It is the growth of the summed request durations (Little's law). A sample of the number in
    flight would miss nearly all requests.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._at = clock()
        self._seconds = self._read()

    def mean(self) -> float:
        """Since the last time, or since the beginning."""
        now, seconds = self._clock(), self._read()
        passed, taken = now - self._at, seconds - self._seconds
        self._at, self._seconds = now, seconds
        return taken / passed if passed > 0 else 0.0

    def _read(self) -> float:
        return sum(self._metrics.slots[end] for end in _SUMS)
