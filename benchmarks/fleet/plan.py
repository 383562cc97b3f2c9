"""How many loaders a replica carries, and how many replicas a fleet needs, by the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.fleet.model import Costs, Fleet, simulate

# What is enough: the bounds of p99, and of the use of cores and wires.
P99_SECONDS, MOST_USED = 0.02, 0.8
# Calls that wait for room at the end of a simulation have no latency yet.
MOST_REFUSED = 0.01
_CALLS = 6000


@dataclass(frozen=True, slots=True)
class Figures:
    """A fleet at work: answers per second, seconds of a call, shares of cores and wires in use.

    ``refused`` are tries without room, a call, and ``failed`` calls without an answer in time.
    """

    replicas: int
    rate: float
    p50: float
    p99: float
    used: float
    wire_used: float
    refused: float
    failed: int

    @property
    def is_enough(self) -> bool:
        """Whether the bounds hold."""
        most = max(self.used, self.wire_used)
        is_fast = self.p99 <= P99_SECONDS and self.refused <= MOST_REFUSED
        return is_fast and most <= MOST_USED and not self.failed


def at_work(costs: Costs, fleet: Fleet) -> Figures:
    """Figures of some thousands of calls, and at least of four a loader."""
    cycle = fleet.think + costs.busy
    seconds = max(_CALLS * cycle / fleet.loaders, 4 * cycle)
    outcome = simulate(costs, fleet, seconds)
    taken = [took for begun, took in outcome.answers if begun >= 1.5 * cycle]
    # Where everything stands still, no later call has been answered by then.
    p50, p99 = np.percentile(taken, (50, 99)) if taken else (math.inf, math.inf)
    return Figures(
        replicas=fleet.replicas,
        rate=len(outcome.answers) / seconds,
        p50=float(p50),
        p99=float(p99),
        used=outcome.core_seconds / seconds / fleet.replicas,
        wire_used=outcome.wire_seconds / seconds / fleet.replicas,
        refused=outcome.refused / outcome.requested,
        failed=outcome.failed,
    )


def enough(costs: Costs, fleet: Fleet) -> Figures:
    """Figures with the fewest replicas for which the bounds hold."""
    busy = _busy(costs, fleet)
    replicas = max(1, math.floor(fleet.loaders / (fleet.think + busy) * busy))
    while not (figures := at_work(costs, replace(fleet, replicas=replicas))).is_enough:
        most = max(figures.used, figures.wire_used)
        replicas = max(replicas + 1, math.floor(replicas * min(most, 1.0) / MOST_USED))
    return figures


def carried(costs: Costs, fleet: Fleet) -> int:
    """The most loaders, to a twentieth, for which the fleet's replicas are enough."""
    busy = _busy(costs, fleet)
    low, high = 1, math.ceil(MOST_USED / busy * (fleet.think + busy)) * fleet.replicas + 1
    middle = high - 1
    while high - low > max(1, low // 20):
        if at_work(costs, replace(fleet, loaders=middle)).is_enough:
            low = middle
        else:
            high = middle
        middle = (low + high) // 2
    return low


def _busy(costs: Costs, fleet: Fleet) -> float:
    """Seconds of what limits a replica, its core or its wire, for a call."""
    return max(costs.busy, costs.answer_bytes * 8 / fleet.bits)
