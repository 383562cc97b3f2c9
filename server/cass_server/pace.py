"""Lets calls that have come in be seen before those that were seen are worked on."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable

# grpc.aio hands over the next call some eight passes of the event loop after the one before.
_QUIET_PASSES = 12
# A refusal takes some 0.4 ms, a third of what a batch of masks takes: so many, and what they bring
# with them, leave four fifths of the time for answers under any flood. What is saved up is for a
# crowd that comes at once, and then waits as it is told.
_REFUSALS_A_SECOND, _MOST_REFUSALS = 250, 100
# Requests that are let through at once after a look that found room: a look takes as long as a
# tenth of a small request.
_UNWATCHED = 7


class Pace:
    """Between two requests, looks whether calls have come in. For the tasks of one event loop.

    gRPC hands over one call at a time, and what runs on the loop in between holds up the next. So a
    server that is too slow would work on one request after the other, find itself almost idle, and
    refuse nobody, while calls pile up inside gRPC without a bound that it knows of. Here, requests
    wait in line, and after each one that goes ahead the loop is left to gRPC until no more calls
    come; only then is it known how many there are. As long as there is room, most are let through.

    Args:
        is_full: whether a call that comes now is refused. Under a flood the refusals are limited,
            and calls wait to be refused.
    """

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full
        self._line: deque[asyncio.Future[None]] = deque()
        self._unwatched = 0
        self._looking = False
        self._quiet = 0
        self._refusals = float(_MOST_REFUSALS)
        self._counted = time.monotonic()

    def seen(self) -> None:
        """A call has come in."""
        self._quiet = 0
        if self._is_full():
            self._refusals -= 1

    async def turn(self) -> None:
        """Return once a request may go ahead, first come, first served."""
        if not self._looking:
            if self._unwatched:
                self._unwatched -= 1
                return
            self._look()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        await place

    def _look(self) -> None:
        now = time.monotonic()
        self._refusals += _REFUSALS_A_SECOND * (now - self._counted)
        self._refusals = min(self._refusals, _MOST_REFUSALS)
        self._counted = now
        self._looking, self._quiet = True, 0
        asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        # On a core of its own, the loop would keep gRPC's threads from bringing the next call.
        os.sched_yield()
        self._quiet += 1
        has_refused_enough = self._refusals <= 0 and self._is_full()
        if self._quiet < _QUIET_PASSES and not has_refused_enough:
            asyncio.get_running_loop().call_soon(self._pass)
            return
        released = 1 if self._is_full() else 1 + _UNWATCHED
        while self._line and released:
            place = self._line.popleft()
            if not place.done():  # else it is cancelled
                place.set_result(None)
                released -= 1
        self._unwatched = released
        self._looking = False
        if self._line:
            self._look()
