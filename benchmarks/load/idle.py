"""A unary call of one caller, with and without idle streams and health watches of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table

from benchmarks.common.callers import closed_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import CHANNEL_OPTIONS, STREAM_MASKS, Case, request_of

STREAMS, WATCHES, CONNECTIONS = 500, 100, 100
_STREAMED = Case("stride 32", "uint8", 1, streamed=True)
_CALLED = Case("stride 32", "float32", 1, streamed=False)
_OPEN_SECONDS, _OPENED_AT_A_TIME = 20.0, 8


def hold_open(address: str) -> Steps:
    """Idle calls over many connections; yields how many are open, once opened and at the end."""
    loop = asyncio.new_event_loop()
    calls: list[tuple[str, Any]] = []

    async def opened(kind: str, call: Any, requests: Sequence[bytes], turn: Any) -> None:
        async with turn:
            with contextlib.suppress(grpc.aio.AioRpcError):
                made = call()
                for request in requests:
                    await made.write(request)
                await made.read()  # then the server waits for more, or for a change
                calls.append((kind, made))

    async def open_all() -> Counter[str]:
        turn, opening = asyncio.Semaphore(_OPENED_AT_A_TIME), []
        streamed = request_of(_STREAMED)
        for _ in range(CONNECTIONS):
            channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            health: Any = health_pb2_grpc.HealthStub(channel).Watch
            watch = partial(health, health_pb2.HealthCheckRequest())
            stream: Any = channel.stream_stream(STREAM_MASKS)
            kinds: list[tuple[str, Any, tuple[bytes, ...]]]
            kinds = [("watches", watch, ())] * (WATCHES // CONNECTIONS)
            kinds += [("streams", stream, (streamed,))] * (STREAMS // CONNECTIONS)
            opening += [opened(*kind, turn) for kind in kinds]
        await asyncio.wait(list(map(asyncio.ensure_future, opening)), timeout=_OPEN_SECONDS)
        return await open_now()

    async def open_now() -> Counter[str]:
        return Counter(kind for kind, call in calls if not call.done())

    yield loop.run_until_complete(open_all())
    yield loop.run_until_complete(open_now())


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of a call before, beside and after idle calls; medians of the rounds."""
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    ratios: list[list[float]] = []
    open_: Counter[str] = Counter()
    threads = resident = 0.0
    with watched_server("--device", "cpu", core=core) as server:
        _percentiles(server, seconds / 2)  # grows to its size
        for _ in range(rounds):
            before = _percentiles(server, seconds)
            empty = server.resident_bytes()
            with helper(hold_open, server.address) as held:
                beside.append(_percentiles(server, seconds))
                resident = (server.resident_bytes() - empty) / 2**20
                threads = sum(usage.threads for usage in server.usage().values())
                held.go()
                open_ = held.result()
            after = _percentiles(server, seconds)
            alone.append([fmean(pair) for pair in zip(before, after, strict=True)])
            ratios.append([a / b for a, b in zip(beside[-1], alone[-1], strict=True)])
    return {
        name: {
            "alone_milliseconds": median(times[index] for times in alone),
            "beside_milliseconds": median(times[index] for times in beside),
            "ratio": median(ratio[index] for ratio in ratios),
        }
        for index, name in enumerate(("p50", "p99"))
    } | {"open": dict(open_), "server_threads": threads, "resident_mib": resident}


def _percentiles(server: WatchedServer, seconds: float) -> list[float]:
    """p50 and p99 in milliseconds of a single caller."""
    with helper(closed_loop, server.address, request_of(_CALLED), 1, seconds) as caller:
        caller.go()
        return [float(p) * 1e3 for p in np.percentile(caller.result().answered, (50, 99))]


def table(result: Mapping[str, Any]) -> Table:
    """A line for the median, one for the slowest."""
    open_ = ", ".join(
        f"{result['open'].get(kind, 0)} of {number} {kind} open"
        for kind, number in (("streams", STREAMS), ("watches", WATCHES))
    )
    made = Table(
        title=f"One caller, {_CALLED.stride}, beside idle calls on {CONNECTIONS} connections",
        caption=f"{open_}; {result['server_threads']:.0f} threads,"
        f" {result['resident_mib']:+.0f} MiB of the server",
        min_width=80,
    )
    for column in ("ms a call", "alone", "beside", "ratio"):
        made.add_column(column, justify="right")
    for name in ("p50", "p99"):
        alone, beside, ratio = result[name].values()
        made.add_row(name, f"{alone:.2f}", f"{beside:.2f}", f"{ratio:.2f}")
    return made
