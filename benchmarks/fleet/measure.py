"""What `benchmarks.fleet` measures: a real server under loaders that think between their calls.

The server has one core, all loaders the other. A loader is a task with a connection of its own that
sends a request made before and leaves the answer as bytes, so that the loaders' core is not what
limits them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import grpc
import numpy as np

from benchmarks.common.workload import (
    CHANNEL_OPTIONS,
    GENERATE_MASK,
    IMAGES,
    MAPS,
    Case,
    request_of,
)
from benchmarks.fleet.costs import Curve, Service

_SETTLE_SECONDS = 0.15
# What a server that is full for a moment tells its callers to wait, at least.
_REFUSED_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Kind:
    """What every loader asks for: masks of this stride and dtype for 16 images."""

    stride: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.stride}, {self.dtype}"

    def request(self) -> bytes:
        """The serialized request."""
        return request_of(Case(self.stride, self.dtype, 1, streamed=False))

    def answer_bytes(self) -> int:
        """Bytes of the masks."""
        (height, width), _ = MAPS[self.stride]
        return IMAGES * height * width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Load:
    """So many loaders, each of which thinks for so many seconds on average."""

    loaders: int
    think: float

    def __str__(self) -> str:
        return f"{self.loaders} loaders, {self.think * 1e3:g} ms"


KINDS = (Kind("stride 32", "float32"), Kind("stride 8", "float32"), Kind("stride 8", "uint8"))
# What a call costs after a pause is learned from one loader, without one from crowds.
ALONE = tuple(Load(1, think) for think in (0.0, 0.2e-3, 1e-3, 3e-3, 10e-3))
# It runs between all others, so that its times tell how fast the machine was then.
REFERENCE = Load(2, 0.0)
CROWDS = (Load(8, 0.0), Load(32, 0.0))
# What the model has to foretell.
CHECKED = (
    *(Load(loaders, 0.0) for loaders in (4, 16)),
    *(Load(loaders, 10e-3) for loaders in (2, 4, 8, 16, 32)),
    Load(32, 40e-3),
    Load(256, 640e-3),
)
_REFERENCE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Turn:
    """One load for a while.

    Attributes:
        rate: answers a second.
        latencies: seconds of each call, in the order of their answers.
        think: mean seconds between an answer and the loader's next call, as they were.
        server: seconds of the server's core, a call.
        client: seconds of the loaders' core, a call.
        speed: what ``server`` was for the reference load just before and after.
    """

    rate: float
    latencies: tuple[float, ...]
    think: float
    server: float
    client: float
    speed: float = 0.0


class Loaders:
    """Loaders, each with a connection of its own.

    Args:
        address: of the server.
        pid: its process.
        number: of loaders, at most.
    """

    def __init__(self, address: str, pid: int, number: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._channels = [
            grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) for _ in range(number)
        ]
        self._calls: list[Any] = [channel.unary_unary(GENERATE_MASK) for channel in self._channels]
        self._chance = random.Random(0)

    async def connect(self, data: bytes) -> None:
        """One call on every connection."""
        for call in self._calls:
            await call(data, wait_for_ready=True)

    async def close(self) -> None:
        """End the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def turns(self, loads: Sequence[Load], data: bytes, seconds: float) -> dict[Load, Turn]:
        """One turn of each load, and of the reference between them."""
        taken: dict[Load, Turn] = {}
        before = await self._turn(REFERENCE, data, _REFERENCE_SECONDS)
        for load in loads:
            turn = await self._turn(load, data, seconds)
            after = await self._turn(REFERENCE, data, _REFERENCE_SECONDS)
            taken[load] = replace(turn, speed=(before.server + after.server) / 2)
            before = after
        return taken

    async def _turn(self, load: Load, data: bytes, seconds: float) -> Turn:
        await self._run(load, data, _SETTLE_SECONDS)
        server, client = self._server_seconds(), time.process_time()
        latencies, pauses, in_time = await self._run(load, data, seconds)
        return Turn(
            rate=in_time / seconds,
            latencies=tuple(latencies),
            think=fmean(pauses) if pauses else load.think,
            server=(self._server_seconds() - server) / len(latencies),
            client=(time.process_time() - client) / len(latencies),
        )

    async def _run(
        self, load: Load, data: bytes, seconds: float
    ) -> tuple[list[float], list[float], int]:
        latencies: list[float] = []
        pauses: list[float] = []
        end = time.perf_counter() + seconds

        async def loader(call: Any) -> int:
            count = 0
            await asyncio.sleep(self._chance.uniform(0.0, load.think))
            begun = time.perf_counter()
            while begun < end:
                await _answered(call, data)
                answered = time.perf_counter()
                latencies.append(answered - begun)
                count += answered <= end
                if load.loaders == 1:
                    time.sleep(load.think)  # the event loop's own is to the millisecond
                elif load.think:
                    await asyncio.sleep(load.think * self._chance.uniform(0.5, 1.5))
                begun = time.perf_counter()
                pauses.append(begun - answered)
            return count

        counts = await asyncio.gather(*(loader(call) for call in self._calls[: load.loaders]))
        return latencies, pauses, sum(counts)

    def _server_seconds(self) -> float:
        """Of processor time until now, to the nanosecond where `/proc/PID/stat` has ticks."""
        return sum(
            int((task / "schedstat").read_text().split()[0]) / 1e9 for task in self._tasks.iterdir()
        )


async def _answered(call: Any, data: bytes) -> None:
    """Return with the answer, after as many tries as a full server makes it."""
    while True:
        try:
            await call(data)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            await asyncio.sleep(_REFUSED_SECONDS)
        else:
            return


def usual_speed(turns: Mapping[Load, Sequence[Turn]]) -> float:
    """Median of the speeds of all turns."""
    return median(turn.speed for taken in turns.values() for turn in taken)


def service_of(kind: Kind, turns: Mapping[Load, Sequence[Turn]]) -> Service:
    """What calls cost, from the turns of one loader and of crowds, at the machine's usual speed."""
    usual = usual_speed(turns)

    def middle(load: Load, value: Callable[[Turn], float]) -> float:
        return median(value(turn) * usual / turn.speed for turn in turns[load])

    rested = [middle(load, lambda turn: turn.server) for load in ALONE]
    client = [middle(load, lambda turn: turn.client) for load in ALONE]
    latencies = [middle(load, lambda turn: fmean(turn.latencies)) for load in ALONE]
    thinks = [median(turn.think for turn in turns[load]) for load in ALONE]
    # What is not the server's work is its rest.
    pauses = [
        latency + think - server
        for latency, think, server in zip(latencies, thinks, rested, strict=True)
    ]
    return Service(
        rested=Curve(tuple(pauses), tuple(rested)),
        crowded=Curve(
            tuple(float(load.loaders) for load in (REFERENCE, *CROWDS)),
            (usual, *(middle(load, lambda turn: turn.server) for load in CROWDS)),
        ),
        client=Curve(tuple(thinks), tuple(client)),
        overlap=max(0.0, (rested[0] + client[0] - latencies[0]) / rested[0]),
        spread=_spread(turns[ALONE[0]]),
        request_bytes=len(kind.request()),
        answer_bytes=kind.answer_bytes(),
    )


def _spread(turns: Sequence[Turn]) -> tuple[float, ...]:
    """Calls by their turn's mean, of those turns whose slowest calls are neither few nor many."""
    shares = [np.array(turn.latencies) / fmean(turn.latencies) for turn in turns]
    shares.sort(key=lambda times: float(np.percentile(times, 99)))
    third = len(shares) // 3
    return tuple(float(time) for times in shares[third : len(shares) - third] for time in times)
