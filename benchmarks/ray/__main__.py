"""`make bench-ray`: the ways of a request to a replica on Ray, beside a server without Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import write
from benchmarks.common.processes import free_port, on_core
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import (
    CHANNEL_OPTIONS,
    GENERATE_MASK,
    IMAGE_SIZE,
    IMAGES,
    MAPS,
    SPEC,
    Case,
    boxes_of,
    request_of,
)
from benchmarks.ray.clusters import NAME, Cluster, cluster, idle_share
from benchmarks.ray.serving import MaskActor
from cass import convert
from cass.malloc import keep_memory
from cass.v1 import cass_pb2 as pb
from cass_client import CassClient
from cass_core import generate_mask

IN_FLIGHT = 8
CASES = [Case(stride, "float32", IN_FLIGHT, streamed=False) for stride in MAPS]
NATIVE = "native server"
_TUNED = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
# Ports that are the same on every machine, unless they are set.
_HAPROXY_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)

# The first calls of a way settle its caches and windows.
_SETTLING_TURNS = 1
# So long is a cluster looked at that nobody calls.
_IDLE_TURNS = 6

Call = Callable[[Case], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster and the ways to it.

    Attributes:
        kind: as for `ray_hosts`.
        ways: their names, each with its address among the cluster's, or ``actor``.
        environment: of the cluster.
        ports: variables that are each to name a free port.
    """

    kind: str
    ways: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()


# One after the other: a cluster takes a share of the core even when nobody calls.
PLANS = (
    # The proxy's ingress is there as well, and what goes through it takes the same path as without.
    Plan(
        "serve",
        {"Serve's gRPC ingress": "ingress", "direct ingress": "direct"},
        {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1"},
    ),
    Plan(
        "tuned",
        {"Serve's gRPC ingress, tuned": "ingress", "direct ingress, tuned": "direct"},
        _TUNED,
    ),
    Plan(
        "tuned",
        {"HAProxy ingress, tuned": "ingress"},
        {**_TUNED, "RAY_SERVE_ENABLE_HA_PROXY": "1"},
        _HAPROXY_PORTS,
    ),
    Plan("replicas", {"actor calls": "actor", "native replicas": "replicas"}),
)


@dataclass(frozen=True, slots=True)
class Way:
    """How the request of a case is made, and what the other side has used until now."""

    call: Call
    cpu_seconds: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of a way."""

    rate: float
    cpu_microseconds: float


# Of each case, of each way.
Samples = dict[Case, dict[str, list[Sample]]]


@asynccontextmanager
async def grpc_calls(address: str) -> AsyncIterator[Call]:
    """Calls over one connection, whose answers stay bytes."""
    requests = {case: request_of(case) for case in CASES}
    async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        unary: Any = channel.unary_unary(GENERATE_MASK)
        yield lambda case: unary(requests[case])


@asynccontextmanager
async def actor_calls() -> AsyncIterator[Call]:
    """Calls of an actor, whose answers are arrays."""
    import ray

    requests = {case: boxes_of(case.stride) for case in CASES}
    actor: Any = ray.remote(MaskActor).options(num_cpus=0).remote()

    def call(case: Case) -> Awaitable[Any]:
        boxes, feature_map = requests[case]
        answer: Awaitable[Any] = actor.masks.remote(boxes, IMAGE_SIZE, feature_map)
        return answer

    yield call


@contextmanager
def driver(address: str) -> Iterator[None]:
    """Be a driver of the cluster, for actor calls and for targets ``ray:NAME``."""
    # Ray gives the clusters that it starts here a token, and reads this when it is imported.
    os.environ["RAY_AUTH_MODE"] = "token"
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


async def check(name: str, call: Call) -> None:
    """Compare a way's answers with masks that are made here."""
    for case in CASES:
        boxes, feature_map = boxes_of(case.stride)
        answer = await call(case)
        if isinstance(answer, bytes):
            (answer,), _ = convert.masks_and_owners(pb.GenerateMaskResponse.FromString(answer))
        if not np.array_equal(answer, generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC)):
            raise SystemExit(f"{name}, {case}: other masks than here")


def check_client() -> None:
    """Compare what the target ``ray:NAME`` answers, whose replicas this process can follow."""
    boxes, feature_map = boxes_of(CASES[0].stride)
    with CassClient(f"ray:{NAME}") as client:
        masks = client.generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC)
    if not np.array_equal(masks, generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC)):
        raise SystemExit(f"ray:{NAME}: other masks than here")


async def turn(way: Way, case: Case, seconds: float) -> Sample:
    """Keep requests in flight for that long."""
    count = 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await way.call(case)
            count += 1

    cpu = way.cpu_seconds()
    start = time.perf_counter()
    end = start + seconds
    await asyncio.gather(*(caller() for _ in range(case.in_flight)))
    took = time.perf_counter() - start
    return Sample(count / took, (way.cpu_seconds() - cpu) / count * 1e6)


async def take_turns(
    plan: Plan, running: Cluster, native: WatchedServer, rounds: int, seconds: float
) -> Samples:
    """The ways to a cluster and the server without Ray, in turn."""
    async with AsyncExitStack() as stack:
        ways = {
            NATIVE: Way(
                await stack.enter_async_context(grpc_calls(native.address)), native.cpu_seconds
            )
        }
        for name, at in plan.ways.items():
            calls = actor_calls() if at == "actor" else grpc_calls(running.addresses[at])
            ways[name] = Way(await stack.enter_async_context(calls), running.cpu_seconds)
        for name, way in ways.items():
            await check(name, way.call)
        samples: Samples = {case: {name: [] for name in ways} for case in CASES}
        for case, of_case in samples.items():
            for round_ in range(rounds + _SETTLING_TURNS):
                for name, way in ways.items():
                    sample = await turn(way, case, seconds)
                    if round_ >= _SETTLING_TURNS:
                        of_case[name].append(sample)
    return samples


def measure(
    rounds: int, seconds: float, cores: tuple[int, int] | None, console: Console
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    """Medians of each case and way, and the cores that each cluster takes when nobody calls."""
    core = cores[0] if cores else None
    rates: Samples = {case: {NATIVE: []} for case in CASES}
    ratios: dict[Case, dict[str, float]] = {case: {NATIVE: 1.0} for case in CASES}
    idle: dict[str, float] = {}
    with watched_server("--device", "cpu", core=core) as native:
        for plan in PLANS:
            ports = {name: str(free_port()) for name in plan.ports}
            with cluster(plan.kind, {**plan.environment, **ports}, core) as running:
                idle[", ".join(plan.ways)] = idle_share(running, _IDLE_TURNS * seconds)
                with ExitStack() as stack:
                    if plan.kind == "replicas":
                        stack.enter_context(driver(running.address))
                        check_client()
                    stack.enter_context(on_core(cores[1] if cores else None))
                    samples = asyncio.run(take_turns(plan, running, native, rounds, seconds))
            for case, of_case in samples.items():
                rates[case][NATIVE] += of_case[NATIVE]
                for name in plan.ways:
                    rates[case][name] = of_case[name]
                    # Of turns beside each other, since the machine's own speed changes.
                    ratios[case][name] = median(
                        one.rate / other.rate
                        for one, other in zip(of_case[name], of_case[NATIVE], strict=True)
                    )
                    console.print(f"{case}: {name} {ratios[case][name]:.2f} of the native server")
    results = {
        str(case): {
            name: {
                "requests_per_second": median(sample.rate for sample in taken),
                "ratio": ratios[case][name],
                "serving_cpu_microseconds": median(sample.cpu_microseconds for sample in taken),
            }
            for name, taken in rates[case].items()
        }
        for case in CASES
    }
    return results, idle


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """All ways, the slowest first."""
    made = Table(title=f"Batches of {IMAGES} images of 1280×736, float32, {IN_FLIGHT} in flight")
    made.add_column("way")
    for case in CASES:
        for column in (f"{case.stride}: requests/s", "of native", "CPU µs a request"):
            made.add_column(column, justify="right")
    of_cases = [results[str(case)] for case in CASES]
    for name in sorted(of_cases[0], key=lambda name: of_cases[0][name]["ratio"]):
        cells = []
        for of_case in of_cases:
            way = of_case[name]
            cells.append(f"{way['requests_per_second']:,.0f}")
            cells.append(f"{way['ratio']:.2f}")
            cells.append(f"{way['serving_cpu_microseconds']:,.0f}")
        made.add_row(name, *cells)
    return made


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each way gets.")] = 7,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
) -> None:
    """All that serves has one core, the client another, where there are two."""
    console = Console(width=150, highlight=False)
    keep_memory()
    available = sorted(os.sched_getaffinity(0))
    cores = (available[0], available[1]) if len(available) > 1 else None
    results, idle = measure(rounds, seconds, cores, console)
    console.print(table(results))
    if out is not None:
        write(
            out,
            f"make bench-ray ROUNDS={rounds} SECONDS={seconds}",
            {
                "ray": metadata.version("ray"),
                "pinned": cores is not None,
                "cases": results,
                "idle_cores": idle,
            },
        )


if __name__ == "__main__":
    typer.run(main)
