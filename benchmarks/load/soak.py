"""`make soak`: two workers under all kinds of callers: are answers right, and does anything leak?

Exits with 1 if an answer is wrong, a call fails that should not, or something grows.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import write
from benchmarks.common.tables import Out, counted, table
from benchmarks.common.watched_server import Usage, WatchedServer, watched_server
from benchmarks.load.soak_callers import Callers, Seen

WORKERS = 2
# The first third, three minutes at most: until every size was answered often enough that memory
# which is kept for the next answer has been allocated.
WARM_UP_SHARE, WARM_UP_SECONDS = 1 / 3, 180.0
# A server with answers of up to 3.8 MB may have some of them more or less under way; a leak of a
# byte in a thousand of what goes through it would be more than that within minutes.
MOST_GROWTH_MIB = 64.0
# Beyond the most of the warm-up, in which the pools grow to their size: gRPC's own breathe.
MOST_MORE_THREADS = 2
SETTLE_SECONDS = 30.0
MIB = 2**20


class Watch:
    """What the server's processes held, second by second."""

    def __init__(self, server: WatchedServer) -> None:
        self._server = server
        self._started = time.monotonic()
        self.seconds: list[float] = []
        self.usages: list[dict[int, Usage]] = []

    async def run(self) -> None:
        """Look every second, until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(1)

    async def look(self) -> dict[int, Usage]:
        """Look once, and scrape the metrics."""
        usage = self._server.usage()
        self.seconds.append(time.monotonic() - self._started)
        self.usages.append(usage)
        await asyncio.to_thread(self.in_flight)
        return usage

    def in_flight(self) -> float:
        """Requests in flight, by the metrics."""
        with urllib.request.urlopen(f"http://{self._server.metrics_address}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(s.value for s in samples if s.name == "cass_requests_in_flight")

    def of_process(self, pid: int, warm: float, before: Usage, after: Usage) -> dict[str, float]:
        """What a process held, and its growth after the warm-up along a straight line."""
        taken = [
            (second, usage[pid])
            for second, usage in zip(self.seconds, self.usages, strict=True)
            if pid in usage
        ]
        seconds = [second for second, _ in taken if second >= warm]
        sizes = [usage.resident_bytes / MIB for second, usage in taken if second >= warm]
        growth = float(np.polyfit(seconds, sizes, 1)[0]) * (seconds[-1] - seconds[0])
        held = {"growth_mib": growth}
        for name in ("resident_bytes", "files", "threads"):
            held[f"{name}_before"] = getattr(before, name)
            held[f"{name}_warm"] = max(getattr(u, name) for second, u in taken if second < warm)
            held[f"{name}_most"] = max(getattr(usage, name) for _, usage in taken)
            held[f"{name}_after"] = getattr(after, name)
        return held


def faults_of(pid: int, held: dict[str, float]) -> list[str]:
    """What a process holds that it must not."""
    more_files = held["files_after"] - held["files_before"]
    more_threads = held["threads_after"] - held["threads_warm"]
    checks = (
        (held["growth_mib"] > MOST_GROWTH_MIB, f"grew by {held['growth_mib']:.0f} MiB"),
        (more_files > 0, f"keeps {more_files:.0f} files"),
        (more_threads > MOST_MORE_THREADS, f"has {more_threads:.0f} threads more than when warm"),
    )
    return [f"process {pid} {fault}" for is_fault, fault in checks if is_fault]


async def soak(server: WatchedServer, seconds: float) -> dict[str, Any]:
    """All of it: what was seen, and under ``faults`` what must not be."""
    seen = Seen()
    callers = Callers(server.address, seen)
    await callers.run(min(2.0, seconds / 10))  # every part is loaded
    before = await _settled(Watch(server), None)
    watch = Watch(server)
    watching = asyncio.create_task(watch.run())
    try:
        await callers.run(seconds)
    finally:
        watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    faults = list(seen.faults)
    if watching.done() and not watching.cancelled():
        faults.append(f"watching ended: {watching.exception()}")
    after = await _settled(watch, before)
    warm = min(WARM_UP_SHARE * seconds, WARM_UP_SECONDS)
    processes = {
        pid: watch.of_process(pid, warm, before[pid], after[pid]) for pid in before if pid in after
    }
    faults += [f"process {pid} has gone" for pid in before if pid not in after]
    faults += [fault for pid, held in processes.items() for fault in faults_of(pid, held)]
    if watch.in_flight():
        faults.append("requests are still in flight")
    return {
        "seconds": seconds,
        "warm_up_seconds": warm,
        "outcomes": dict(sorted(seen.outcomes.items())),
        "processes": processes,
        "faults": faults,
    }


async def _settled(watch: Watch, before: dict[int, Usage] | None) -> dict[int, Usage]:
    """What is held once the connections have ended, at the latest after a while.

    They have when no process has more files than before, or than a second earlier.
    """
    end = time.monotonic() + SETTLE_SECONDS
    earlier, usage = before, await watch.look()
    while time.monotonic() < end:
        if earlier and all(
            pid in usage and usage[pid].files <= earlier[pid].files for pid in earlier
        ):
            break
        await asyncio.sleep(1)
        earlier, usage = before or usage, await watch.look()
    return usage


def soak_table(result: dict[str, Any]) -> Table:
    """The processes, the first of which starts and watches the others."""

    def cells(held: dict[str, float], name: str, unit: int = 1) -> str:
        times = ("before", "warm", "most", "after")
        return " / ".join(f"{held[f'{name}_{time}'] / unit:.0f}" for time in times)

    rows = (
        (
            pid,
            cells(held, "resident_bytes", MIB),
            f"{held['growth_mib']:+.1f}",
            cells(held, "files"),
            cells(held, "threads"),
        )
        for pid, held in result["processes"].items()
    )
    title = f"{result['seconds']:.0f} s, the first {result['warm_up_seconds']:.0f} s apart"
    caption = "Before, most of the warm-up, most, after; growth after the warm-up."
    return table(title, ("process", "MiB", "growth", "files", "threads"), rows, caption)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long callers call.")] = 20.0,
    out: Out = None,
) -> None:
    """Callers and server share the machine's cores."""
    console = Console(width=120, highlight=False)
    options = ("--workers", str(WORKERS), "--metrics-port", "0", "--device", "cpu")
    with watched_server(*options) as server:
        result = uvloop.run(soak(server, 60 * minutes))
        code = server.close()
    result["faults"] += server.complaints
    if code:
        result["faults"].append(f"the server exits with {code}")
    console.print(soak_table(result))
    console.print(counted(result["outcomes"]))
    for fault in result["faults"]:
        console.print(f"[red]{fault}[/]")
    if out is not None:
        write(out, f"make soak MINUTES={minutes:g}", result)
    if result["faults"]:
        raise typer.Exit(1)
    console.print("[green]Every answer was right, and nothing grew.[/]")


if __name__ == "__main__":
    typer.run(main)
