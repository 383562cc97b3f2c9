"""Four times what the server can carry, and crowds that wait as told, beside health checks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common.callers import REFUSED, Tally, closed_loop, open_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import Case, request_of
from benchmarks.load.prober import PROBE_COLUMNS, Probes, probe, probe_cells

REQUEST = Case("stride 8", "float32", 1, streamed=False)
SATURATING, CROWD, TIMES = 8, 64, 4
SATURATION = f"{SATURATING} callers"
FLOOD = f"{TIMES} × the best rate, by chance"
CROWDED = f"{CROWD} callers, who wait as told"
GOODPUT, SLOWER = 0.9, 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One load in one round."""

    tally: Tally
    probes: Probes
    server_cpu: float

    @property
    def goodput(self) -> float:
        """Answers a second, of those in time."""
        return self.tally.in_time / self.tally.seconds

    def milliseconds(self, name: str, percentile: float) -> float:
        """Of the times that the tally has under that name."""
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
    return {
        load: _summary(taken, samples[SATURATION], load != SATURATION)
        for load, taken in samples.items()
    }


def _summary(samples: list[Sample], saturated: list[Sample], is_judged: bool) -> dict[str, Any]:
    def middle(value: Callable[[Sample], float]) -> float:
        return median(map(value, samples))

    pairs = list(zip(samples, saturated, strict=True))
    goodput = median(one.goodput / other.goodput for one, other in pairs)
    slower = median(
        one.milliseconds("answered", 99) / other.milliseconds("answered", 99)
        for one, other in pairs
    )
    probes, codes = Probes(), Counter[str]()
    for sample in samples:
        probes.add(sample.probes)
        codes += sample.tally.codes
    return {
        "calls_per_second": middle(lambda one: one.tally.codes.total() / one.tally.seconds),
        "answered_per_second": middle(lambda one: one.goodput),
        "goodput": goodput,
        "p50_milliseconds": middle(lambda one: one.milliseconds("answered", 50)),
        "p99_milliseconds": middle(lambda one: one.milliseconds("answered", 99)),
        "p99_to_saturated": slower,
        "holds": not is_judged or (goodput >= GOODPUT and slower <= SLOWER),
        "waited_p99_milliseconds": middle(lambda one: one.milliseconds("waited", 99)),
        "late_p99_milliseconds": middle(lambda one: one.milliseconds("late", 99)),
        "server_cpu": middle(lambda one: one.server_cpu),
        "callers_cpu": middle(lambda one: one.tally.cpu / one.tally.seconds),
        "codes": dict(codes),
        "probes": probes.summary(),
    }


def table(results: Mapping[str, Any]) -> Table:
    """All loads."""
    made = Table(
        title=f"{REQUEST.stride}, float32, 16 images; answered ≥ {GOODPUT} of {SATURATION},"
        f" p99 ≤ {SLOWER:.0f} × theirs",
        caption="Milliseconds. late: calls that the callers' core could not make in time.",
    )
    columns = ("load", "calls/s", "answered/s", "of best", "p50", "p99", "of best's", "waited p99")
    for column in (*columns, "late p99", "server CPU", "callers'", *PROBE_COLUMNS, "codes"):
        made.add_column(column, justify="left" if column in ("load", "codes") else "right")
    for load, result in results.items():
        made.add_row(
            load,
            f"{result['calls_per_second']:,.0f}",
            f"{result['answered_per_second']:,.0f}",
            _judged(result["goodput"], load == SATURATION or result["goodput"] >= GOODPUT),
            f"{result['p50_milliseconds']:.1f}",
            f"{result['p99_milliseconds']:.1f}",
            _judged(result["p99_to_saturated"], result["p99_to_saturated"] <= SLOWER),
            f"{result['waited_p99_milliseconds']:.0f}",
            f"{result['late_p99_milliseconds']:.1f}",
            f"{result['server_cpu']:.2f}",
            f"{result['callers_cpu']:.2f}",
            *probe_cells(result["probes"]),
            _codes(result["codes"]),
        )
    return made


def _judged(value: float, holds: bool) -> str:
    return f"[{'green' if holds else 'red'}]{value:.2f}[/]"


def _codes(codes: Mapping[str, int]) -> str:
    names = {REFUSED: "refused", "OK": ""}
    return ", ".join(f"{names.get(code, code)} {n}".strip() for code, n in codes.items())
