"""How much may be in flight in one process, and of that for one caller: requests and bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from cass_server.config.limits import Limits
from cass_server.exceptions import Overloaded

Caller: TypeAlias = str | bytes
"""A token, or the address of a connection."""
SMALL_BYTES = 1 << 17
"""Requests that have no more, answer included, are counted by their number alone."""

# The delay that RetryInfo gives a refused caller, at least and at most.
_LEAST_DELAY, _LONGEST_DELAY = 0.01, 2.0
# Slots that get free for each caller with a delay: the others are taken by callers who come for
# the first time.
_SLOTS_A_RETURN = 6
# Callers who get a delay: per second, and at once after a calm.
_DELAYS_A_SECOND, _MOST_DELAYS = 50, 100
# Weight of the newest request in the average time of one.
_SMOOTHING = 0.05


class Admission:
    """Counts what is in flight; safe to use from several threads.

    A caller is a token or a connection, and has at most its share of the requests and the bytes; an
    empty one may be anybody, and has no share.
    While ``is_short``, there is no room for bytes: the process has too little memory.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most_requests = limits.requests_in_flight
        self._most_bytes = limits.queue_bytes
        self._share_requests = limits.share_of(limits.requests_in_flight)
        self._share_bytes = limits.share_of(limits.queue_bytes)
        # A lock alone, where nobody is waited for: a condition costs three times as much.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.is_short = False
        self._requests = 0
        self._bytes = 0
        # Of each caller who has some.
        self._requests_of: dict[Caller, int] = {}
        self._bytes_of: dict[Caller, int] = {}
        self._seconds = 0.0
        self._booked = 0.0
        self._allowed = float(_MOST_DELAYS)
        self._refused = time.monotonic()

    def check_room(self) -> None:
        """Raises `Overloaded` for a request that has not arrived yet, where `enter` would now."""
        if self._requests >= self._most_requests:
            with self._lock:
                raise self._overloaded("requests", self._most_requests)

    def enter(self, caller: Caller = "") -> None:
        """Counts one more request, until `leave`; raises `Overloaded` if there is no room."""
        with self._lock:
            if self._requests >= self._most_requests:
                raise self._overloaded("requests", self._most_requests)
            theirs = self._requests_of.get(caller, 0)
            if caller and theirs >= self._share_requests:
                raise self._overloaded("requests of one caller", self._share_requests)
            self._requests_of[caller] = theirs + 1
            self._requests += 1

    def leave(self, seconds: float, caller: Caller = "") -> None:
        """Give a place back after so many seconds."""
        with self._lock:
            self._requests -= 1
            _reduce(self._requests_of, caller, 1)
            self._seconds += _SMOOTHING * (seconds - self._seconds)
            if not self._requests:
                self._changed.notify_all()

    def wait_idle(self, seconds: float) -> None:
        """Return once nothing is in flight, or after so many seconds."""
        with self._lock:
            self._changed.wait_for(lambda: not self._requests and not self._bytes, seconds)

    def hold(self, size: int, caller: Caller = "", held: int = 0) -> None:
        """Counts the bytes of a request and its answer, until `drop`.

        Alone, a request may have any number; else raises `Overloaded` if there is no room.

        Args:
            size: bytes that are counted after this.
            caller: whose they are.
            held: how many of them are counted already.
        """
        if not self.try_hold(size, caller, held):
            raise self.no_room()

    def try_hold(self, size: int, caller: Caller = "", held: int = 0) -> bool:
        """As `hold`; whether there is room."""
        with self._lock:
            if not self._fits(size, caller, held):
                return False
            self._bytes += size - held
            self._bytes_of[caller] = self._bytes_of.get(caller, 0) + size - held
            return True

    def wait_to_hold(self, size: int, is_wanted: Callable[[], bool], caller: Caller = "") -> bool:
        """As `hold`, once there is room; False if the request is not wanted any more."""
        while not self.try_hold(size, caller):
            if not is_wanted():
                return False
            with self._lock:
                # Nothing here notices a caller who goes away.
                self._changed.wait_for(lambda: self._fits(size, caller), timeout=1.0)
        return True

    def drop(self, size: int, caller: Caller = "") -> None:
        """Give room back."""
        with self._lock:
            self._bytes -= size
            _reduce(self._bytes_of, caller, size)
            self._changed.notify_all()

    @property
    def held_bytes(self) -> int:
        """Bytes that are counted now."""
        return self._bytes

    def no_room(self) -> Overloaded:
        """The error for bytes that do not fit."""
        with self._lock:
            return self._overloaded("bytes", self._most_bytes)

    def _fits(self, size: int, caller: Caller, held: int = 0) -> bool:
        others = self._bytes - held
        theirs = self._bytes_of.get(caller, 0) - held
        return others == 0 or (
            not self.is_short
            and others + size <= self._most_bytes
            and (not caller or theirs == 0 or theirs + size <= self._share_bytes)
        )

    def _overloaded(self, reason: str, limit: int) -> Overloaded:
        """Callers get delays one after the other, as slots get free.

        If all waited for the same time, they would all come back at once, to be refused again. A
        delay costs half as much again as a plain refusal, so that in a flood few callers get one.
        """
        now = time.monotonic()
        allowed = min(self._allowed + _DELAYS_A_SECOND * (now - self._refused), _MOST_DELAYS)
        self._refused = now
        if allowed < 1:
            self._allowed = allowed
            return Overloaded(reason, limit, 0.0)
        self._allowed = allowed - 1
        between = _SLOTS_A_RETURN * self._seconds / max(1, self._requests)
        self._booked = min(max(self._booked, now) + between, now + _LONGEST_DELAY)
        return Overloaded(reason, limit, max(self._booked - now, _LEAST_DELAY))


def _reduce(counts: dict[Caller, int], caller: Caller, number: int) -> None:
    """Takes so many away, and the entry with the last."""
    left = counts[caller] - number
    if left:
        counts[caller] = left
    else:
        del counts[caller]
