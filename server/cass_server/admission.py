"""How much may be under way in one process: a bounded number of requests and of bytes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cass_server.limits import Limits

# What a refused caller is told to wait, at least and at most.
_LEAST_DELAY, _LONGEST_DELAY = 0.01, 2.0
# How many places get free for each caller who is told to come back: the other ones are taken by
# callers who come for the first time.
_PLACES_A_RETURN = 6
# Weight of the newest request in the average time of one.
_SMOOTHING = 0.05


class Overloaded(Exception):
    """There is no room for a request.

    Attributes:
        reason: which limit it is: ``requests`` or ``bytes``.
        limit: its value.
        delay: after how many seconds to try again.
    """

    def __init__(self, reason: str, limit: int, delay: float) -> None:
        super().__init__(f"the server is full: {limit} {_NOUNS[reason]}")
        self.reason = reason
        self.limit = limit
        self.delay = delay


_NOUNS = {"requests": "requests are under way", "bytes": "bytes of requests and answers at most"}


class Admission:
    """Hands out tickets as long as there is room. For the tasks of one event loop.

    Args:
        limits: ``requests_in_flight`` and ``queue_bytes`` are what counts here.
    """

    def __init__(self, limits: Limits) -> None:
        self._most_requests = limits.requests_in_flight
        self._most_bytes = limits.queue_bytes
        self._requests = 0
        self._bytes = 0
        self._seconds = 0.0
        self._booked = 0.0
        self._for_requests = _Line()
        self._for_bytes = _Line()

    def enter(self) -> Ticket:
        """A place for one request.

        Raises:
            Overloaded: there is none.
        """
        if self.is_full():
            raise self._overloaded("requests", self._most_requests)
        self._requests += 1
        return Ticket(self)

    def try_enter(self) -> Ticket | None:
        """A place for one request, if there is one and nobody waits for it."""
        if self._requests >= self._most_requests or self._for_requests.places:
            return None
        self._requests += 1
        return Ticket(self)

    async def enter_in_turn(self) -> Ticket:
        """As `try_enter`, once there is one."""
        await self._for_requests.wait(lambda: not self.is_full())
        return self.enter()

    async def empty(self) -> None:
        """Return once all that was let in, or waited for it, has left."""
        await self._for_requests.wait(lambda: self._requests == 0)

    def try_hold(self, ticket: Ticket, size: int) -> bool:
        """Count the bytes of a request and its answer, if there is room and nobody waits for it.

        Alone, a request may have any number.
        """
        if self._for_bytes.places or (self._bytes and self._bytes + size > self._most_bytes):
            return False
        ticket.bytes = size
        self._bytes += size
        return True

    def hold(self, ticket: Ticket, size: int) -> None:
        """As `try_hold`, but whether or not somebody waits.

        Raises:
            Overloaded: there is no room.
        """
        if not self._fits(size):
            raise self._overloaded("bytes", self._most_bytes)
        ticket.bytes = size
        self._bytes += size

    async def hold_in_turn(self, ticket: Ticket, size: int) -> None:
        """As `try_hold`, once there is room."""
        await self._for_bytes.wait(lambda: self._fits(size))
        self.hold(ticket, size)

    def _fits(self, size: int) -> bool:
        return self._bytes == 0 or self._bytes + size <= self._most_bytes

    def leave(self, ticket: Ticket) -> None:
        """Take a place back; see `Ticket.leave`."""
        self._requests -= 1
        self._bytes -= ticket.bytes
        took = time.monotonic() - ticket.entered
        self._seconds += _SMOOTHING * (took - self._seconds)
        for line in (self._for_requests, self._for_bytes):
            if line.places:
                line.wake()

    def is_full(self) -> bool:
        """Whether `enter` refuses."""
        return self._requests >= self._most_requests

    def _overloaded(self, reason: str, limit: int) -> Overloaded:
        """One caller after the other is told to come back, as places get free.

        If all waited for the same time, they would all come back at once, to be refused again: and
        a refusal costs a third of a small request.
        """
        now = time.monotonic()
        between = _PLACES_A_RETURN * self._seconds / max(1, self._requests)
        self._booked = min(max(self._booked, now) + between, now + _LONGEST_DELAY)
        return Overloaded(reason, limit, max(self._booked - now, _LEAST_DELAY))


class Ticket:
    """The place of one request, to be given back once its answer is sent.

    Attributes:
        entered: when it was handed out, on the monotonic clock.
        bytes: how many it holds.
    """

    __slots__ = ("_admission", "_left", "bytes", "entered")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._left = False
        self.entered = time.monotonic()
        self.bytes = 0

    def leave(self, _: Any = None) -> None:
        """Give the place back; a second time does nothing. Takes what a callback is given."""
        if not self._left:
            self._left = True
            self._admission.leave(self)


class _Line:
    """Whoever waits for room, first come, first served.

    Attributes:
        places: one for each who waits.
    """

    def __init__(self) -> None:
        self.places: deque[asyncio.Future[None]] = deque()

    async def wait(self, is_room: Callable[[], bool]) -> None:
        """Return in one's turn, once there is room; what takes it must follow at once."""
        if not self.places and is_room():
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.places.append(place)
        try:
            await place
            while not is_room():  # woken at the head of the line, where it stays
                place = self.places[0] = asyncio.get_running_loop().create_future()
                await place
        finally:
            self.places.remove(place)
            self.wake()

    def wake(self) -> None:
        """Let the first in line look."""
        if self.places and not self.places[0].done():
            self.places[0].set_result(None)
