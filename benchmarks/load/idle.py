"""Unary calls of one caller, with and without idle streams and health watches of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from functools import partial
from statistics import fmean, median
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table

from benchmarks.common.callers import closed_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.measure import median_ratio
from benchmarks.common.tables import counted, table
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import CHANNEL_OPTIONS, STREAM_MASKS, Case, request_of

STREAMS, CONNECTIONS = 500, 100
_STREAMED = Case("stride 32", "uint8", 1, streamed=True)
_UNARY = Case("stride 32", "float32", 1, streamed=False)
_OPEN_SECONDS, _OPENED_AT_A_TIME = 20.0, 8


def hold_open(address: str) -> Steps:
    """A watch and five idle streams on each connection; yields how many are open, twice."""
    loop = asyncio.new_event_loop()
    calls: list[tuple[str, Any]] = []

    async def opened(kind: str, call: Any, requests: list[bytes], turn: asyncio.Semaphore) -> None:
        async with turn:
            with contextlib.suppress(grpc.aio.AioRpcError):
                made = call()
                for request in requests:
                    await made.write(request)
                await made.read()  # then the server waits for more, or for a change
                calls.append((kind, made))

    async def open_all() -> None:
        turn, opening = asyncio.Semaphore(_OPENED_AT_A_TIME), []
        for _ in range(CONNECTIONS):
            channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            health: Any = health_pb2_grpc.HealthStub(channel).Watch
            watch: Any = partial(health, health_pb2.HealthCheckRequest())
            stream: Any = channel.stream_stream(STREAM_MASKS)
            kinds: list[tuple[str, Any, list[bytes]]] = [("watches", watch, [])]
            kinds += [("streams", stream, [request_of(_STREAMED)])] * (STREAMS // CONNECTIONS)
            opening += [opened(*kind, turn) for kind in kinds]
        await asyncio.wait(list(map(asyncio.ensure_future, opening)), timeout=_OPEN_SECONDS)

    async def open_now() -> Counter[str]:
        return Counter(kind for kind, call in calls if not call.done())

    loop.run_until_complete(open_all())
    yield loop.run_until_complete(open_now())
    yield loop.run_until_complete(open_now())


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of a call before, beside and after idle calls; medians of the rounds."""
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    held: dict[str, Any] = {}
    with watched_server("--device", "cpu", core=core) as server:
        _percentiles(server, seconds / 2)  # grows to its size
        for _ in range(rounds):
            before = _percentiles(server, seconds)
            empty = server.resident_bytes()
            with helper(hold_open, server.address) as holder:
                beside.append(_percentiles(server, seconds))
                held["resident_mib"] = (server.resident_bytes() - empty) / 2**20
                held["threads"] = sum(usage.threads for usage in server.usage().values())
                holder.go()
                held["open"] = dict(holder.result())
            after = _percentiles(server, seconds)
            alone.append([fmean(pair) for pair in zip(before, after, strict=True)])
    return held | {
        name: {
            "alone_milliseconds": median(without),
            "beside_milliseconds": median(with_),
            "ratio": median_ratio(with_, without),
        }
        for name, without, with_ in zip(
            ("p50", "p99"), zip(*alone, strict=True), zip(*beside, strict=True), strict=True
        )
    }


def _percentiles(server: WatchedServer, seconds: float) -> list[float]:
    """p50 and p99 in milliseconds of a single caller."""
    with helper(closed_loop, server.address, request_of(_UNARY), 1, seconds) as caller:
        caller.go()
        return [float(p) * 1e3 for p in np.percentile(caller.result().answered, (50, 99))]


def idle_table(result: Mapping[str, Any]) -> Table:
    """A row for the median, one for the slowest hundredth."""
    rows = ([name, *(f"{ms:.2f}" for ms in result[name].values())] for name in ("p50", "p99"))
    caption = (
        f"open: {counted(result['open'])} of {STREAMS} and {CONNECTIONS}; the server has"
        f" {result['threads']} threads, {result['resident_mib']:+.0f} MiB"
    )
    title = f"One caller, {_UNARY.stride}, beside idle calls on {CONNECTIONS} connections"
    return table(title, ("ms a call", "alone", "beside", "ratio"), rows, caption)
