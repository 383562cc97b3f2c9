"""Callers for `benchmarks.overload`: a fixed number of them, or as many as arrive by chance."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_METHOD = "/cass.v1.CassService/GenerateMask"
_DETAILS = "grpc-status-details-bin"
_DEADLINE_SECONDS = 20.0
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@dataclass(slots=True)
class Tally:
    """What became of the calls.

    Attributes:
        accepted: seconds until its answer, of each call that had one.
        refused: seconds until its refusal, of each call that the server had no room for.
        delays: seconds that each refusal told to wait.
        failed: the others, by status.
        late: seconds by which each call started later than it was to.
        waited: seconds from a caller's first try to its answer, refusals and waits included.
        seconds: how long calls were made.
        in_time: answers that came within that time; what is left in line is answered later.
    """

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    seconds: float = 0.0
    in_time: int = 0

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.in_time / self.seconds

    @property
    def offered(self) -> float:
        """Calls a second."""
        made = len(self.accepted) + len(self.refused) + self.failed.total()
        return made / self.seconds


class Callers:
    """Callers over several connections of this process.

    Args:
        address: of the server.
        data: the serialized request that all of them make.
        connections: how many; calls take turns on them.
    """

    def __init__(self, address: str, data: bytes, connections: int) -> None:
        self._channels = [grpc.aio.insecure_channel(address, _OPTIONS) for _ in range(connections)]
        # Answers stay bytes: reading them is not what is measured.
        self._calls: list[Any] = [channel.unary_unary(_METHOD) for channel in self._channels]
        self._data = data

    async def connect(self) -> None:
        """One call on every connection."""
        for call in self._calls:
            await call(self._data, wait_for_ready=True)

    async def close(self) -> None:
        """End the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def closed_loop(self, callers: int, seconds: float) -> Tally:
        """Each caller makes a call once the one before it has ended; refused, it waits as told."""
        tally = Tally()
        start = time.perf_counter()
        end = start + seconds
        await asyncio.gather(*(self._caller(index, end, tally) for index in range(callers)))
        tally.seconds = time.perf_counter() - start
        tally.in_time = len(tally.accepted)
        return tally

    async def _caller(self, index: int, end: float, tally: Tally) -> None:
        while (first := time.perf_counter()) < end:
            while (delay := await self._call(index, time.perf_counter(), tally)) is not None:
                await asyncio.sleep(delay)
                if time.perf_counter() >= end:
                    return
            tally.waited.append(time.perf_counter() - first)

    async def open_loop(self, rate: float, seconds: float, chance: random.Random) -> Tally:
        """Calls arrive at that rate whatever becomes of them, and none is made again."""
        tally = Tally()
        tasks: set[asyncio.Task[Any]] = set()
        start = due = time.perf_counter()
        while (due := due + chance.expovariate(rate)) < start + seconds:
            # A sleep of nothing lets the loop look at its sockets, as a late generator must.
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._call(len(tally.late), due, tally))
            tally.late.append(time.perf_counter() - due)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        tally.seconds = time.perf_counter() - start
        tally.in_time = len(tally.accepted)
        if tasks:
            await asyncio.wait(tasks)
        return tally

    async def _call(self, index: int, due: float, tally: Tally) -> float | None:
        """One call; the seconds to wait before the next try if it was refused."""
        call = self._calls[index % len(self._calls)]
        try:
            await call(self._data, timeout=_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            delay = _delay(error)
            if delay is None:
                tally.failed[error.code().name] += 1
                return None
            tally.refused.append(time.perf_counter() - due)
            tally.delays.append(delay)
            return delay
        tally.accepted.append(time.perf_counter() - due)
        return None


def _delay(error: grpc.aio.AioRpcError) -> float | None:
    """What a refusal tells to wait; None if it is no refusal."""
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    info = error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None
