"""`make soak`: two workers under all kinds of callers: are answers right, and does anything leak?

Exits with 1 if an answer is wrong, a call fails that should not, or something grows.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Annotated, Any

import numpy as np
import typer
import uvloop

from benchmarks.common.measure import write
from benchmarks.common.server import Usage, server_on, usage
from benchmarks.common.tables import CONSOLE, Out, show
from benchmarks.load.soak_callers import Callers
from tests.server.support.observed import complaints, in_flight
from tests.support.servers import ServerProcess

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

Usages = dict[int, Usage]
"""Of each of the server's processes, by its id."""


async def soak(server: ServerProcess, seconds: float) -> dict[str, Any]:
    """All of it: what was seen, and under ``faults`` what must not be."""
    callers = Callers(server.address)
    await callers.run(min(2.0, seconds / 10))  # every part is loaded
    before = await _settled(server, None)
    looks: list[tuple[float, Usages]] = []
    watching = asyncio.create_task(_watch(server, looks))
    await callers.run(seconds)
    watching.cancel()
    (ended,) = await asyncio.gather(watching, return_exceptions=True)
    after = await _settled(server, before)
    warm = min(WARM_UP_SHARE * seconds, WARM_UP_SECONDS)
    faults = list(callers.faults)
    if not isinstance(ended, asyncio.CancelledError):
        faults.append(f"watching ended: {ended}")
    if in_flight(server):
        faults.append("requests are still in flight")
    if gone := before.keys() - after.keys():
        faults.append(f"processes have gone: {gone}")
    held = {
        str(pid): _held(
            before[pid],
            [(second, usages[pid]) for second, usages in looks if pid in usages],
            after[pid],
            warm,
        )
        for pid in before.keys() & after.keys()
    }
    faults += [f"process {pid} {fault}" for pid, one in held.items() for fault in _faults(one)]
    return {
        "seconds": seconds,
        "warm_up_seconds": warm,
        "outcomes": dict(sorted(callers.outcomes.items())),
        "processes": held,
        "faults": faults,
    }


async def _watch(server: ServerProcess, looks: list[tuple[float, Usages]]) -> None:
    """Look every second at what the processes hold, and scrape the metrics."""
    start = time.monotonic()
    while True:
        looks.append((time.monotonic() - start, usage(server)))
        await asyncio.to_thread(in_flight, server)
        await asyncio.sleep(1)


async def _settled(server: ServerProcess, before: Usages | None) -> Usages:
    """What is held once the connections have ended, at the latest after a while.

    They have when no process has more files than before, or than a second earlier.
    """
    gc.collect()  # the error of a call that was too late keeps its connection open
    end = time.monotonic() + SETTLE_SECONDS
    earlier, now = before, usage(server)
    while time.monotonic() < end:
        if earlier and all(pid in now and now[pid].files <= earlier[pid].files for pid in earlier):
            break
        await asyncio.sleep(1)
        earlier, now = before or now, usage(server)
    return now


def _held(
    before: Usage, taken: list[tuple[float, Usage]], after: Usage, warm: float
) -> dict[str, float]:
    """What a process held; its growth after the warm-up is that of a straight line."""
    seconds = [second for second, _ in taken if second >= warm]
    sizes = [one.resident_bytes / MIB for second, one in taken if second >= warm]
    slope = float(np.polyfit(seconds, sizes, 1)[0])
    held = {"growth_mib": slope * (seconds[-1] - seconds[0])}
    for name in ("resident_bytes", "files", "threads"):
        held[f"{name}_before"] = getattr(before, name)
        held[f"{name}_warm"] = max(getattr(one, name) for second, one in taken if second < warm)
        held[f"{name}_most"] = max(getattr(one, name) for _, one in taken)
        held[f"{name}_after"] = getattr(after, name)
    return held


def _faults(held: dict[str, float]) -> list[str]:
    """What a process holds that it must not."""
    more_files = held["files_after"] - held["files_before"]
    more_threads = held["threads_after"] - held["threads_warm"]
    checks = (
        (held["growth_mib"] > MOST_GROWTH_MIB, f"grew by {held['growth_mib']:.0f} MiB"),
        (more_files > 0, f"keeps {more_files:.0f} files"),
        (more_threads > MOST_MORE_THREADS, f"has {more_threads:.0f} threads more than when warm"),
    )
    return [fault for is_fault, fault in checks if is_fault]


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long callers call.")] = 20.0,
    out: Out = None,
) -> None:
    """Callers and server share the machine's cores."""
    with server_on(None, "--workers", str(WORKERS), "--metrics-port", "0") as server:
        result = uvloop.run(soak(server, 60 * minutes))
        code = server.stop()
    # Callers of this kind cause warnings.
    result["faults"] += [line for line in complaints(server) if '"level": "WARNING"' not in line]
    if code:
        result["faults"].append(f"the server exits with {code}")
    show(f"{60 * minutes:.0f} s, by process; the first supervises", result["processes"])
    CONSOLE.print(result["outcomes"])
    for fault in result["faults"]:
        CONSOLE.print(fault, style="red")
    if out is not None:
        write(out, f"make soak MINUTES={minutes:g}", result)
    if result["faults"]:
        raise typer.Exit(1)
    CONSOLE.print("Every answer was right, and nothing grew.", style="green")


if __name__ == "__main__":
    typer.run(main)
