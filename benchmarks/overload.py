"""`make bench-overload`: what a server on one core does with four times the load it can carry."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.load import Callers, Tally
from benchmarks.measure import write
from benchmarks.watched_server import WatchedServer, watched_server
from cass import wire
from cass_core import MaskSpec
from cass_core.masks import MaskInputs
from cass_core.scenes import street_boxes
from cass_server.memory import keep_freed_memory

IMAGE_SIZE, FEATURE_MAP, BOXES = (736, 1280), (92, 160), 30
CONNECTIONS = 16
# Numbers of callers, of which the least that reaches this part of the best rate saturates it.
CALLERS = (1, 2, 3, 4, 6, 8)
SATURATED = 0.95
TIMES = 4
# Callers of as many data loaders as have nothing to do with that number.
CROWD = 64
# What has to hold at that many times the load.
GOODPUT, SLOWER = 0.8, 3.0
COLUMNS = (
    "load",
    "calls/s",
    "answers / best",
    "p50",
    "p99",
    "p99 / saturated",
    "refused",
    "refused p50",
    "p99",
    "told to wait",
    "waited p99",
    "server CPU",
    "callers' CPU",
    "late p99",
    "MiB",
    "failed",
)


@dataclass(frozen=True, slots=True)
class Case:
    """What every caller asks for.

    Attributes:
        name: of the case.
        images: of a batch.
        dtype: of the masks.
        spec: of the masks.
    """

    name: str
    images: int
    dtype: str
    spec: MaskSpec

    def request(self) -> bytes:
        """The serialized request."""
        boxes = street_boxes(self.images, BOXES, image_size=IMAGE_SIZE)
        inputs = MaskInputs.check(boxes, IMAGE_SIZE, FEATURE_MAP, self.spec, self.dtype, False)
        return wire.mask_request_bytes(inputs)


CASES = (
    Case("16 images, float32, 942 kB", 16, "float32", MaskSpec(patch_size=1)),
    Case(
        "64 images, uint8, linear, 942 kB",
        64,
        "uint8",
        MaskSpec(patch_size=1, decay_type="linear", merge="clipped_sum"),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One load; times in milliseconds, ``_cpu`` in shares of a core, ``calls`` as they ended."""

    load: str
    offered: float
    goodput: float
    accepted_p50: float
    accepted_p99: float
    refused: float
    refused_p50: float
    refused_p99: float
    delay_p50: float
    waited_p99: float
    failed: dict[str, int]
    late_p99: float
    calls: tuple[int, int]
    server_seconds: float
    server_cpu: float
    generator_cpu: float
    resident_mib: float


class Measurement:
    """Loads on one server, one after the other."""

    def __init__(self, server: WatchedServer, console: Console) -> None:
        self._server = server
        self._console = console

    async def of(self, load: str, calls: Awaitable[Tally]) -> Result:
        """What came of a load, once all its calls have ended."""
        start, own, server = time.perf_counter(), time.process_time(), self._server.cpu_seconds()
        tally = await calls
        seconds = time.perf_counter() - start
        used = self._server.cpu_seconds() - server
        done = len(tally.accepted) + len(tally.refused)
        result = Result(
            load=load,
            offered=tally.offered,
            goodput=tally.goodput,
            accepted_p50=_milliseconds(tally.accepted, 50),
            accepted_p99=_milliseconds(tally.accepted, 99),
            refused=len(tally.refused) / max(1, done),
            refused_p50=_milliseconds(tally.refused, 50),
            refused_p99=_milliseconds(tally.refused, 99),
            delay_p50=_milliseconds(tally.delays, 50),
            waited_p99=_milliseconds(tally.waited, 99),
            failed=dict(tally.failed),
            late_p99=_milliseconds(tally.late, 99),
            calls=(len(tally.accepted), len(tally.refused)),
            server_seconds=used,
            server_cpu=used / seconds,
            generator_cpu=(time.process_time() - own) / seconds,
            resident_mib=self._server.resident_bytes() / 2**20,
        )
        self._console.print(
            f"  {load}: {result.goodput:,.0f}/s, p99 {result.accepted_p99:.1f} ms,"
            f" {result.refused:.0%} refused"
        )
        return result


async def measure(
    case: Case, server: WatchedServer, seconds: float, console: Console
) -> dict[str, Any]:
    """All loads of one case."""
    console.print(case.name)
    callers = Callers(server.address, case.request(), CONNECTIONS)
    measurement = Measurement(server, console)
    try:
        await callers.connect()
        await callers.closed_loop(CALLERS[-1], seconds / 2)  # for caches and windows
        before = server.resident_bytes() / 2**20
        results = [
            await measurement.of(f"{number} callers", callers.closed_loop(number, seconds))
            for number in CALLERS
        ]
        best = max(result.goodput for result in results)
        saturating, saturated = next(
            (number, result)
            for number, result in zip(CALLERS, results, strict=True)
            if result.goodput >= SATURATED * best
        )
        for number in (2 * saturating, TIMES * saturating, CROWD):
            load = f"{number} callers, who wait as told"
            results.append(await measurement.of(load, callers.closed_loop(number, seconds)))
        for times in (1, 2, TIMES):
            calls = callers.open_loop(times * best, seconds, random.Random(times))
            results.append(await measurement.of(f"{times} × the best rate, by chance", calls))
    finally:
        await callers.close()
    # What each kind of call costs, so that their sums come closest to what was used.
    counts = np.array([result.calls for result in results], float)
    costs = np.linalg.lstsq(counts, [result.server_seconds for result in results])[0]
    return {
        "best_per_second": best,
        "answer_cpu_microseconds": costs[0] * 1e6,
        "refusal_cpu_microseconds": costs[1] * 1e6,
        "saturating_callers": saturating,
        "saturated_p99_milliseconds": saturated.accepted_p99,
        "resident_mib_before": before,
        "loads": [asdict(result) for result in results],
    }


def table(name: str, result: dict[str, Any]) -> Table:
    """All loads of one case."""
    made = Table(
        title=f"{name}: best {result['best_per_second']:,.0f}/s,"
        f" p99 {result['saturated_p99_milliseconds']:.1f} ms when just saturated"
        f" by {result['saturating_callers']} callers",
        caption="Milliseconds. waited: with all refusals and waits. late: calls that the callers'"
        " own core could not make in time. An answer costs the server"
        f" {result['answer_cpu_microseconds']:.0f} µs of a core, a refusal"
        f" {result['refusal_cpu_microseconds']:.0f} µs.",
    )
    for column in COLUMNS:
        made.add_column(
            column, justify="left" if column == "load" else "right", no_wrap=column == "load"
        )
    for load in result["loads"]:
        goodput = load["goodput"] / result["best_per_second"]
        slower = load["accepted_p99"] / result["saturated_p99_milliseconds"]
        made.add_row(
            load["load"],
            f"{load['offered']:,.0f}",
            _judged(goodput, goodput >= GOODPUT),
            f"{load['accepted_p50']:.1f}",
            f"{load['accepted_p99']:.1f}",
            _judged(slower, slower <= SLOWER),
            f"{load['refused']:.0%}",
            f"{load['refused_p50']:.1f}",
            f"{load['refused_p99']:.1f}",
            f"{load['delay_p50']:.0f}",
            f"{load['waited_p99']:.0f}",
            f"{load['server_cpu']:.2f}",
            f"{load['generator_cpu']:.2f}",
            f"{load['late_p99']:.1f}",
            f"{load['resident_mib'] - result['resident_mib_before']:+.0f}",
            " ".join(f"{code} {count}" for code, count in load["failed"].items()),
        )
    return made


def _judged(value: float, holds: bool) -> str:
    return f"[{'green' if holds else 'red'}]{value:.2f}[/]"


def _milliseconds(seconds: list[float], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1e3 if seconds else 0.0


def main(
    seconds: Annotated[float, typer.Option(help="Length of each load.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
) -> None:
    """The server has a core of its own, the callers another."""
    console = Console(width=200, highlight=False)
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("two cores are needed: callers beside the server would slow it down")
    keep_freed_memory()
    results: dict[str, Any] = {}
    for case in CASES:
        with watched_server("--device", "cpu", core=available[0]) as server:
            os.sched_setaffinity(0, {available[1]})
            results[case.name] = uvloop.run(measure(case, server, seconds, console))
            os.sched_setaffinity(0, available)
    for name, result in results.items():
        console.print(table(name, result))
    console.print(f"What has to hold at {TIMES} times: goodput ≥ {GOODPUT}, p99 ≤ {SLOWER:.0f} ×.")
    if out is not None:
        write(out, f"make bench-overload SECONDS={seconds:g}", {"cases": results})


if __name__ == "__main__":
    typer.run(main)
