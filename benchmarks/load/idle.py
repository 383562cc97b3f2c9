"""Unary calls of one caller, with and without idle streams and health watches of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from statistics import fmean, median
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.common.callers import closed_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.measure import median_ratio
from benchmarks.common.server import Usage, server_on, usage
from benchmarks.common.workload import CHANNEL_OPTIONS, STREAM_MASKS, Case, request_of
from tests.support.servers import ServerProcess

STREAMS, CONNECTIONS = 500, 100
_STREAMED = Case("stride 32", "uint8", 1, streamed=True)
_UNARY = Case("stride 32", "float32", 1, streamed=False)
TITLE = f"One caller, {_UNARY.stride}, beside idle calls on {CONNECTIONS} connections"


def hold_open(address: str) -> Steps:
    """A watch and five idle streams on each connection; yields in the end how many are open."""
    loop, calls = asyncio.new_event_loop(), list[tuple[str, Any]]()

    async def open_all() -> None:
        for _ in range(CONNECTIONS):
            channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            watch: Any = health_pb2_grpc.HealthStub(channel).Watch
            stream: Any = channel.stream_stream(STREAM_MASKS)
            made = [("watches", watch(health_pb2.HealthCheckRequest()))]
            made += [("streams", stream()) for _ in range(STREAMS // CONNECTIONS)]
            for kind, call in made:
                if kind == "streams":
                    await call.write(request_of(_STREAMED))
                with contextlib.suppress(grpc.aio.AioRpcError):  # then it is not open
                    await call.read()  # after it the server waits for more, or for a change
            calls.extend(made)

    async def open_now() -> Counter[str]:
        return Counter(kind for kind, call in calls if not call.done())

    yield loop.run_until_complete(open_all())
    yield loop.run_until_complete(open_now())


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of a call before, beside and after idle calls; medians of the rounds."""
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    held: dict[str, Any] = {}
    with server_on(core) as server:
        _percentiles(server, seconds / 2)  # grows to its size
        for _ in range(rounds):
            before, empty = _percentiles(server, seconds), _usage(server)
            with helper(hold_open, server.address) as holder:
                beside.append(_percentiles(server, seconds))
                full = _usage(server)
                holder.go()
                held["open"] = dict(holder.result())
            held["resident_mib"] = (full.resident_bytes - empty.resident_bytes) / 2**20
            held["threads"] = full.threads
            after = _percentiles(server, seconds)
            alone.append([fmean(pair) for pair in zip(before, after, strict=True)])
    without, with_ = np.array(alone).T.tolist(), np.array(beside).T.tolist()
    return held | {
        name: {
            "alone_milliseconds": median(without[index]),
            "beside_milliseconds": median(with_[index]),
            "ratio": median_ratio(with_[index], without[index]),
        }
        for index, name in enumerate(("p50", "p99"))
    }


def _usage(server: ServerProcess) -> Usage:
    return usage(server)[server.process.pid]


def _percentiles(server: ServerProcess, seconds: float) -> list[float]:
    """p50 and p99 in milliseconds of a single caller."""
    with helper(closed_loop, server.address, request_of(_UNARY), 1, seconds) as caller:
        caller.go()
        return [float(p) * 1e3 for p in np.percentile(caller.result().answered, (50, 99))]
