"""Four times what the server can carry, and crowds that retry, beside health checks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common.callers import Tally, closed_loop, open_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.measure import median_ratio
from benchmarks.common.tables import counted, judged, table
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import Case, request_of
from benchmarks.load.prober import PROBE_COLUMNS, Probes, probe, probe_cells, summary

REQUEST = Case("stride 8", "float32", 1, streamed=False)
SATURATING, CROWD, TIMES = 8, 64, 4
SATURATION = f"{SATURATING} callers"
FLOOD = f"{TIMES} × the best rate, at random"
CROWDED = f"{CROWD} callers, who retry when it says"
GOODPUT, SLOWER = 0.9, 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One load in one round."""

    tally: Tally
    probes: Probes
    server_cpu: float

    @property
    def goodput(self) -> float:
        """Answers per second, of those in time."""
        return self.tally.in_time / self.tally.seconds

    def milliseconds(self, name: str, percentile: float) -> float:
        """A percentile of a list of the tally."""
        times = getattr(self.tally, name)
        return float(np.percentile(times, percentile)) * 1e3 if times else 0.0


def _take(
    server: WatchedServer, seconds: float, function: Callable[..., Steps], *arguments: Any
) -> Sample:
    with (
        helper(probe, server.address, seconds) as prober,
        helper(function, server.address, *arguments) as callers,
    ):
        start, before = time.perf_counter(), server.cpu_seconds()
        callers.go()
        prober.go()
        probes, tally = prober.result(), callers.result()
        used, wall = server.cpu_seconds() - before, time.perf_counter() - start
    return Sample(tally, probes, used / wall)


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of each load; ratios are of loads in the same round."""
    request = request_of(REQUEST)
    samples: dict[str, list[Sample]] = {SATURATION: [], FLOOD: [], CROWDED: []}
    with watched_server("--device", "cpu", core=core) as server:
        _take(server, seconds, closed_loop, request, SATURATING, seconds / 2)  # grows to its size
        for _ in range(rounds):
            saturated = _take(server, seconds, closed_loop, request, SATURATING, seconds)
            samples[SATURATION].append(saturated)
            rate = TIMES * saturated.goodput
            samples[FLOOD].append(_take(server, seconds, open_loop, request, rate, seconds))
            samples[CROWDED].append(_take(server, seconds, closed_loop, request, CROWD, seconds))
    return {load: _summary(taken, samples[SATURATION]) for load, taken in samples.items()}


def _summary(samples: list[Sample], saturated: list[Sample]) -> dict[str, Any]:
    def ratio(value: Callable[[Sample], float]) -> float:
        return median_ratio([value(one) for one in samples], [value(one) for one in saturated])

    def milliseconds(name: str, percentile: float) -> float:
        return median(one.milliseconds(name, percentile) for one in samples)

    codes = sum((one.tally.codes for one in samples), Counter[str]())
    return {
        "answered_per_second": median(one.goodput for one in samples),
        "goodput": ratio(lambda one: one.goodput),
        "p50_milliseconds": milliseconds("answered", 50),
        "p99_milliseconds": milliseconds("answered", 99),
        "p99_to_saturated": ratio(lambda one: one.milliseconds("answered", 99)),
        "waited_p99_milliseconds": milliseconds("waited", 99),
        "late_p99_milliseconds": milliseconds("late", 99),
        "server_cpu": median(one.server_cpu for one in samples),
        "callers_cpu": median(one.tally.cpu / one.tally.seconds for one in samples),
        "codes": dict(codes),
        "probes": summary([one.probes for one in samples]),
    }


def flood_table(results: Mapping[str, Any]) -> Table:
    """All loads."""
    rows = (
        (
            load,
            f"{result['answered_per_second']:,.0f}",
            judged(f"{result['goodput']:.2f}", result["goodput"] >= GOODPUT),
            f"{result['p50_milliseconds']:.1f}",
            f"{result['p99_milliseconds']:.1f}",
            judged(f"{result['p99_to_saturated']:.2f}", result["p99_to_saturated"] <= SLOWER),
            f"{result['waited_p99_milliseconds']:.0f}",
            f"{result['late_p99_milliseconds']:.1f}",
            f"{result['server_cpu']:.2f}",
            f"{result['callers_cpu']:.2f}",
            *probe_cells(result["probes"]),
            counted(result["codes"]),
        )
        for load, result in results.items()
    )
    columns = ["load", "answered/s", f"≥ {GOODPUT}", "p50", "p99", f"≤ {SLOWER:.0f}", "waited p99"]
    columns += ("late p99", "server CPU", "callers'", *PROBE_COLUMNS, "codes")
    title = f"{REQUEST.stride}, float32, 16 images; answers and p99 divided by {SATURATION}'"
    caption = "Milliseconds. late: calls that the callers' core could not make in time."
    return table(title, columns, rows, caption)
