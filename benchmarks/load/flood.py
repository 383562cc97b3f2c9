"""Four times what the server can carry, and crowds that retry, beside health checks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common.callers import Tally, closed_loop, open_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.measure import median_ratio
from benchmarks.common.processes import cpu_seconds
from benchmarks.common.server import server_on
from benchmarks.common.workload import Case, request_of
from benchmarks.load.prober import Probes, probe, summary
from tests.support.servers import ServerProcess

REQUEST = Case("stride 8", "float32", 1, streamed=False)
SATURATING, CROWD, TIMES = 8, 64, 4
SATURATION = f"{SATURATING} callers"
FLOOD = f"{TIMES} × the best rate, at random"
CROWDED = f"{CROWD} callers, who retry when it says"
LEAST_GOODPUT, MOST_SLOWER = 0.9, 3.0
TITLE = f"{REQUEST}; ratios are to {SATURATION}; late: calls that the callers' core made too late"


@dataclass(frozen=True, slots=True)
class Sample:
    """One load in one round."""

    figures: dict[str, float]
    codes: Counter[str]
    probes: Probes


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of each load; ratios are of loads in the same round."""
    request = request_of(REQUEST)
    samples: dict[str, list[Sample]] = {SATURATION: [], FLOOD: [], CROWDED: []}
    with server_on(core) as server:
        _take(server, seconds, closed_loop, request, SATURATING, seconds / 2)  # grows to its size
        for _ in range(rounds):
            saturated = _take(server, seconds, closed_loop, request, SATURATING, seconds)
            samples[SATURATION].append(saturated)
            rate = TIMES * saturated.figures["answered_per_second"]
            samples[FLOOD].append(_take(server, seconds, open_loop, request, rate, seconds))
            samples[CROWDED].append(_take(server, seconds, closed_loop, request, CROWD, seconds))
    return {load: _summary(taken, samples[SATURATION]) for load, taken in samples.items()}


def _take(
    server: ServerProcess, seconds: float, function: Callable[..., Steps], *arguments: Any
) -> Sample:
    pid = server.process.pid
    with (
        helper(probe, server.address, seconds) as prober,
        helper(function, server.address, *arguments) as callers,
    ):
        start, before = time.perf_counter(), cpu_seconds(pid)
        callers.go()
        prober.go()
        probes, tally = prober.result(), callers.result()
        used = (cpu_seconds(pid) - before) / (time.perf_counter() - start)
    return Sample(_figures(tally) | {"server_cpu": used}, tally.codes, probes)


def _figures(tally: Tally) -> dict[str, float]:
    def milliseconds(times: list[float], percentile: float) -> float:
        return float(np.percentile(times, percentile)) * 1e3 if times else 0.0

    return {
        "answered_per_second": tally.in_time / tally.seconds,
        "p50_milliseconds": milliseconds(tally.answered, 50),
        "p99_milliseconds": milliseconds(tally.answered, 99),
        "waited_p99_milliseconds": milliseconds(tally.waited, 99),
        "late_p99_milliseconds": milliseconds(tally.late, 99),
        "callers_cpu": tally.cpu / tally.seconds,
    }


def _summary(samples: list[Sample], saturated: list[Sample]) -> dict[str, Any]:
    def ratio(figure: str) -> float:
        return median_ratio(*([one.figures[figure] for one in s] for s in (samples, saturated)))

    goodput, slower = ratio("answered_per_second"), ratio("p99_milliseconds")
    return {
        **{name: median(one.figures[name] for one in samples) for name in samples[0].figures},
        "goodput": goodput,
        "p99_to_saturated": slower,
        "holds": goodput >= LEAST_GOODPUT and slower <= MOST_SLOWER,
        "codes": dict(sum((one.codes for one in samples), Counter[str]())),
        "probes": summary([one.probes for one in samples]),
    }
