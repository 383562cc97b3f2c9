"""`make bench-rpc`: the service beside a bare server and an echo, under the same client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import write
from benchmarks.rpc_client import CLIENT_BOUND, IMAGE_SIZE, IMAGES, MAPS, time_clients
from benchmarks.rpc_link import link_table, time_dtypes
from benchmarks.rpc_servers import SERVICE, SPEC
from cass import wire
from cass_core.masks import MaskInputs
from cass_core.scenes import street_boxes
from cass_server.memory import keep_freed_memory

SERVERS = ("ours", "bare", "echo", "uncounted")
# Of ours to the bare server's, requests a second.
BOUND = 0.9
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for, and how."""

    stride: str
    dtype: str
    in_flight: int
    streamed: bool

    def __str__(self) -> str:
        way = "stream" if self.streamed else "unary"
        return f"{self.stride}, {self.dtype}, {self.in_flight} in flight, {way}"


CASES = [
    Case(stride, dtype, in_flight, streamed)
    for stride in MAPS
    for dtype in ("float32", "float16", "uint8")
    for in_flight in (1, 8)
    for streamed in (False, True)
]


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of a server."""

    rate: float
    cpu_microseconds: float
    faults: float


class Server:
    """A server process and a connection to it."""

    def __init__(self, name: str, core: int | None) -> None:
        command = [sys.executable, "-m", "benchmarks.rpc_servers", name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        assert self._process.stdout is not None
        self.address = f"127.0.0.1:{self._process.stdout.readline().strip()}"
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        self._channel = grpc.aio.insecure_channel(self.address, options)
        self.unary: Any = self._channel.unary_unary(f"/{SERVICE}/GenerateMask")
        self.stream: Any = self._channel.stream_stream(f"/{SERVICE}/StreamMasks")

    def used(self) -> tuple[float, int]:
        """Seconds of CPU time and minor page faults until now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS, int(fields[7])

    async def close(self) -> None:
        """End it."""
        await self._channel.close()
        self._process.kill()
        self._process.wait()


def request_of(case: Case) -> bytes:
    """The serialized request of a case."""
    feature_map, boxes = MAPS[case.stride]
    arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
    inputs = MaskInputs.check(arrays, IMAGE_SIZE, feature_map, SPEC, case.dtype, False)
    if case.streamed:
        return wire.stream_request_bytes(inputs)
    return wire.mask_request_bytes(inputs)


async def turn(server: Server, case: Case, data: bytes, seconds: float) -> Sample:
    """Keep requests in flight for that long."""
    cpu, faults = server.used()
    start = time.perf_counter()
    count = await (_streamed if case.streamed else _unary)(
        server, data, case.in_flight, start + seconds
    )
    took = time.perf_counter() - start
    cpu_after, faults_after = server.used()
    return Sample(count / took, (cpu_after - cpu) / count * 1e6, (faults_after - faults) / count)


async def _unary(server: Server, data: bytes, in_flight: int, end: float) -> int:
    count = 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await server.unary(data)
            count += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return count


async def _streamed(server: Server, data: bytes, in_flight: int, end: float) -> int:
    call: Any = server.stream()
    room = asyncio.Semaphore(in_flight)

    async def send() -> None:
        while time.perf_counter() < end:
            await room.acquire()
            await call.write(data)
        await call.done_writing()

    sender = asyncio.create_task(send())
    count = 0
    while await call.read() is not grpc.aio.EOF:
        count += 1
        room.release()
    await sender
    return count


async def measure(
    rounds: int, seconds: float, cores: tuple[int, int] | None, console: Console
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, float]], dict[str, float]]:
    """Medians of every case and server, of the two clients, and of dtypes over a link."""
    servers = {name: Server(name, cores[0] if cores else None) for name in SERVERS}
    results: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for case in CASES:
            data = request_of(case)
            samples: dict[str, list[Sample]] = {name: [] for name in servers}
            for round_ in range(rounds + 1):
                for name, server in servers.items():
                    sample = await turn(server, case, data, seconds)
                    if round_:  # the first one is for caches and windows
                        samples[name].append(sample)
            results[str(case)] = {
                name: {
                    "requests_per_second": median(s.rate for s in taken),
                    "server_cpu_microseconds": median(s.cpu_microseconds for s in taken),
                    "page_faults_per_request": median(s.faults for s in taken),
                }
                for name, taken in samples.items()
            }
            # Of turns beside each other, since the machine's own speed changes.
            results[str(case)]["ratio"] = {
                name: median(
                    ours.rate / other.rate
                    for ours, other in zip(samples["ours"], samples[name], strict=True)
                )
                for name in SERVERS[1:]
            }
            console.print(line(str(case), results[str(case)]))
        address = servers["ours"].address
        clients = await asyncio.to_thread(time_clients, address, rounds)
        linked = await time_dtypes(address, rounds, seconds)
    finally:
        for server in servers.values():
            await server.close()
    return results, clients, linked


def line(case: str, result: dict[str, dict[str, float]]) -> str:
    """A case as it is done."""
    rates = "  ".join(f"{name} {result[name]['requests_per_second']:,.0f}" for name in SERVERS)
    return f"{case}: {rates}  ours / bare {result['ratio']['bare']:.2f}"


def table(results: dict[str, dict[str, dict[str, float]]]) -> Table:
    """All cases."""
    made = Table(title=f"Requests a second, batches of {IMAGES} images of 1280×736")
    for column in (
        "case",
        *SERVERS[:3],
        "ours / bare",
        "bound",
        "server µs: ours",
        "bare",
        "echo",
        "faults",
        "counting",
    ):
        made.add_column(column, justify="left" if column == "case" else "right")
    for case, result in results.items():
        ratio = result["ratio"]["bare"]
        made.add_row(
            case,
            *(f"{result[name]['requests_per_second']:,.0f}" for name in SERVERS[:3]),
            f"{ratio:.2f}",
            f"[green]≥ {BOUND} ✓[/]" if ratio >= BOUND else f"[red]≥ {BOUND} ✗[/]",
            *(f"{result[name]['server_cpu_microseconds']:.0f}" for name in SERVERS[:3]),
            f"{result['ours']['page_faults_per_request']:.1f}",
            f"{(1 - result['ratio']['uncounted']) * 100:+.0f} %",
        )
    return made


def client_table(clients: dict[str, dict[str, float]]) -> Table:
    """CPU time of a call in the caller's process."""
    made = Table(title="µs of CPU a call at the client, one caller")
    for column in ("case", "CassClient", "generated stub", "ratio", "bound"):
        made.add_column(column, justify="left" if column == "case" else "right")
    for case, taken in clients.items():
        kept = taken["ratio"] <= CLIENT_BOUND
        made.add_row(
            case,
            f"{taken['ours']:.0f}",
            f"{taken['bare']:.0f}",
            f"{taken['ratio']:.2f}",
            f"[green]≤ {CLIENT_BOUND} ✓[/]" if kept else f"[red]≤ {CLIENT_BOUND} ✗[/]",
        )
    return made


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each server gets.")] = 7,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
) -> None:
    """The server has a core of its own, the client another, where there are two."""
    console = Console(width=170, highlight=False)
    keep_freed_memory()
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = (available[0], available[1]) if len(available) > 1 else None
    if cores:
        os.sched_setaffinity(0, {cores[1]})
    results, clients, linked = asyncio.run(measure(rounds, seconds, cores, console))
    console.print(table(results), client_table(clients), link_table(linked))
    if out is not None:
        write(
            out,
            f"make bench-rpc ROUNDS={rounds} SECONDS={seconds}",
            {"cases": results, "client": clients, "link": linked},
        )


if __name__ == "__main__":
    typer.run(main)
