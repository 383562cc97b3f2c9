"""`make soak`: two workers under all kinds of callers for long: is it right, and does it leak?

Exits with 1 if an answer is wrong, a call fails that should not, or something grows.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import write
from benchmarks.common.watched_server import Usage, WatchedServer, watched_server
from benchmarks.load.soak_callers import Callers, Seen

WORKERS = 2
# The first third, three minutes at most: until every size was answered often enough that memory
# which is kept for the next answer has been asked for.
WARM_UP_SHARE, WARM_UP_SECONDS = 1 / 3, 180.0
# A server that holds answers of up to 3.8 MB may have some of them more or less under way; a
# leak of a byte in a thousand of what goes through it would be more than that within minutes.
MOST_GROWTH_MIB = 64.0
# Threads of streams and of health checks stay once so many were needed at a time; gRPC's own pools
# breathe.
MOST_MORE_THREADS = 24
SETTLE_SECONDS = 30.0
MIB = 2**20


class Watch:
    """What the server's processes held, second by second."""

    def __init__(self, server: WatchedServer) -> None:
        self._server = server
        self._begun = time.monotonic()
        self.seconds: list[float] = []
        self.usages: list[dict[int, Usage]] = []
        self.scrapes = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(1)

    async def look(self) -> dict[int, Usage]:
        """Look once, and scrape the metrics."""
        usage = self._server.usage()
        self.seconds.append(time.monotonic() - self._begun)
        self.usages.append(usage)
        await asyncio.to_thread(self.scrape)
        self.scrapes += 1
        return usage

    def scrape(self) -> dict[str, float]:
        """All metrics, those of one name added up."""
        with urllib.request.urlopen(f"http://{self._server.metrics_address}/metrics") as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def growth_mib(self, pid: int, since: float) -> float:
        """By how much a process's memory grew since then, along a straight line."""
        taken = [
            (second, usage[pid].resident_bytes / MIB)
            for second, usage in zip(self.seconds, self.usages, strict=True)
            if second >= since and pid in usage
        ]
        seconds, sizes = zip(*taken, strict=True)
        slope = float(np.polyfit(seconds, sizes, 1)[0])
        return slope * float(seconds[-1] - seconds[0])


async def soak(server: WatchedServer, seconds: float) -> dict[str, Any]:
    """All of it; what was seen, and under ``faults`` what must not be."""
    seen = Seen()
    callers = Callers(server.address, seen)
    await callers.run(min(2.0, seconds / 10))  # every part is loaded
    watch = Watch(server)
    before = await _steady(watch)
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
    processes = {}
    for pid in before:
        if pid not in after:
            faults.append(f"process {pid} has gone")
            continue
        processes[pid] = _of_process(watch, pid, warm, before[pid], after[pid])
        if processes[pid]["growth_mib"] > MOST_GROWTH_MIB:
            faults.append(f"process {pid} grew by {processes[pid]['growth_mib']:.0f} MiB")
        if after[pid].files > before[pid].files:
            faults.append(f"process {pid} keeps {after[pid].files - before[pid].files} files")
        if after[pid].threads > before[pid].threads + MOST_MORE_THREADS:
            faults.append(f"process {pid} has {after[pid].threads} threads")
    if watch.scrape()["cass_requests_in_flight"]:
        faults.append("requests are still in flight")
    return {
        "seconds": seconds,
        "warm_up_seconds": warm,
        "outcomes": dict(sorted(seen.outcomes.items())),
        "scrapes": watch.scrapes,
        "processes": processes,
        "faults": faults,
    }


async def _steady(watch: Watch) -> dict[int, Usage]:
    """What is held once no more connections end."""
    usage = await watch.look()
    while True:
        await asyncio.sleep(1)
        earlier, usage = usage, await watch.look()
        if {pid: held.files for pid, held in usage.items()} == {
            pid: held.files for pid, held in earlier.items()
        }:
            return usage


async def _settled(watch: Watch, before: dict[int, Usage]) -> dict[int, Usage]:
    """What is held once the connections have ended, or after a while."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        usage = await watch.look()
        is_back = all(pid in usage and usage[pid].files <= before[pid].files for pid in before)
        if is_back or time.monotonic() > end:
            return usage
        await asyncio.sleep(0.2)


def _of_process(
    watch: Watch, pid: int, warm: float, before: Usage, after: Usage
) -> dict[str, float]:
    held = [usage[pid] for usage in watch.usages if pid in usage]
    return {
        "resident_mib_before": before.resident_bytes / MIB,
        "resident_mib_most": max(usage.resident_bytes for usage in held) / MIB,
        "resident_mib_after": after.resident_bytes / MIB,
        "growth_mib": watch.growth_mib(pid, warm),
        "files_before": before.files,
        "files_most": max(usage.files for usage in held),
        "files_after": after.files,
        "threads_before": before.threads,
        "threads_most": max(usage.threads for usage in held),
        "threads_after": after.threads,
    }


def table(result: dict[str, Any]) -> Table:
    """The processes, the first of which starts and watches the others."""
    made = Table(
        title=f"{result['seconds']:.0f} s, the first {result['warm_up_seconds']:.0f} s apart"
    )
    for column in ("process", "MiB before", "most", "after", "growth", "files", "threads"):
        made.add_column(column, justify="right")
    for pid, held in result["processes"].items():
        made.add_row(
            str(pid),
            *(f"{held[f'resident_mib_{when}']:.0f}" for when in ("before", "most", "after")),
            f"{held['growth_mib']:+.1f}",
            *(
                " / ".join(f"{held[f'{what}_{when}']:.0f}" for when in ("before", "most", "after"))
                for what in ("files", "threads")
            ),
        )
    return made


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long callers call.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
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
    console.print(table(result))
    console.print(", ".join(f"{name} {count:,}" for name, count in result["outcomes"].items()))
    for fault in result["faults"]:
        console.print(f"[red]{fault}[/]", markup=True)
    if out is not None:
        write(out, f"make soak MINUTES={minutes:g}", result)
    if result["faults"]:
        raise typer.Exit(1)
    console.print("[green]Every answer was right, and nothing grew.[/]")


if __name__ == "__main__":
    typer.run(main)
