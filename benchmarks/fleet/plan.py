"""What a fleet of so many loaders needs, by `benchmarks.fleet.model` with measured services."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.fleet.costs import Curve, Service
from benchmarks.fleet.measure import Kind
from benchmarks.fleet.model import Fleet, Outcome, simulate

# What is enough: the bound of the slowest hundredth of calls, and of the cores' and wires' use.
P99_SECONDS, MOST_USED = 0.02, 0.8
LOADERS_A_HOST = 8
FLEETS = (64, 512, 4096)
# Seconds between batches: of loaders that decode and augment 16 images, and of light ones.
THINKS = (2.0, 0.5, 0.1)
_CARRIED_THINK, _LOST_THINK = 1.0, 1.0
_CALLS = 30_000
# When a replica is lost, and how long it is looked at: it is back in between.
_LOST_AT, BACK_AFTER, _LOOKED_AT = 10.0, 30.0, 60.0
_WINDOW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """A fleet at work.

    Attributes:
        rate: answers a second.
        p50, p99: seconds of a call.
        used, wire_used: shares of the replicas' cores and wires.
        refused: tries that there was no room for, a call.
        failed: calls without an answer in time.
    """

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
        return self.p99 <= P99_SECONDS and most <= MOST_USED and not self.failed


@dataclass(frozen=True, slots=True)
class Loss:
    """What a lost replica costs.

    Attributes:
        hit: tries that it did not answer.
        failed: calls without an answer in time.
        p99_before: seconds of a call before, as the slowest hundredth has them.
        p99_without: the same while it is gone, but for the first ten seconds.
        longest: seconds of the slowest call.
        settled: seconds after the loss from which on p99 was within the bound, taken of the calls
            begun in five seconds at a time.
    """

    hit: int
    failed: int
    p99_before: float
    p99_without: float
    longest: float
    settled: float


def at_work(service: Service, fleet: Fleet, seed: int = 0) -> Figures:
    """Figures of some tens of thousands of calls, once the fleet has found its pace."""
    cycle = fleet.think + service.crowded(1.0)
    seconds = max(_CALLS * cycle / fleet.loaders, 4 * cycle)
    outcome = simulate(service, fleet, seconds, seed)
    return _figures(outcome, fleet, seconds, 1.5 * cycle)


def _figures(outcome: Outcome, fleet: Fleet, seconds: float, warm: float) -> Figures:
    taken = np.array([took for begun, took in outcome.answers if begun >= warm])
    p50, p99 = np.percentile(taken, (50, 99))
    return Figures(
        rate=len(outcome.answers) / seconds,
        p50=float(p50),
        p99=float(p99),
        used=outcome.core_seconds / seconds / fleet.replicas,
        wire_used=outcome.wire_seconds / seconds / fleet.replicas,
        refused=outcome.refused / outcome.asked,
        failed=outcome.failed,
    )


def enough(service: Service, fleet: Fleet) -> tuple[Fleet, Figures]:
    """The fleet with the fewest replicas for which the bounds hold, and its figures."""
    busy = max(min(service.crowded.values), service.answer_bytes * 8 / fleet.server_bits)
    rate = fleet.loaders / (fleet.think + busy)
    replicas = max(1, math.floor(rate * busy))
    while True:
        sized = replace(fleet, replicas=replicas)
        figures = at_work(service, sized)
        if figures.is_enough:
            return sized, figures
        # Never beyond what is needed: the use of what there is tells how much more it is at least.
        most = max(figures.used, figures.wire_used)
        replicas = max(replicas + 1, math.floor(replicas * min(most, 1.0) / MOST_USED))


def lose(service: Service, fleet: Fleet, *, silent: bool, seed: int = 0) -> Loss:
    """What becomes of a fleet when one of its replicas goes, for half a minute."""
    fleet = replace(fleet, lost_at=_LOST_AT, back_after=BACK_AFTER, silent=silent)
    outcome = simulate(service, fleet, _LOOKED_AT, seed)
    calls = np.array(outcome.answers)
    begun, took = calls[:, 0], calls[:, 1]
    settled = 0.0
    for start in np.arange(_LOST_AT, _LOOKED_AT - 10.0, _WINDOW_SECONDS):
        window = took[(begun >= start) & (begun < start + _WINDOW_SECONDS)]
        if len(window) and np.percentile(window, 99) > P99_SECONDS:
            settled = float(start) + _WINDOW_SECONDS - _LOST_AT
    before = took[(begun > 2.0) & (begun < _LOST_AT - 2.0)]
    without = took[(begun > _LOST_AT + 10.0) & (begun < _LOST_AT + BACK_AFTER)]
    return Loss(
        hit=outcome.repeated,
        failed=outcome.failed,
        p99_before=float(np.percentile(before, 99)),
        p99_without=float(np.percentile(without, 99)),
        longest=float(took.max()),
        settled=settled,
    )


def service_from(results: Mapping[str, Any], kind: Kind) -> Service:
    """What calls of a kind cost, as `benchmarks.fleet` has written it.

    A dtype that was not measured costs the core what float32 does, and the wire its bytes.

    Raises:
        KeyError: nothing of that stride was measured.
    """
    services = results["services"]
    kept = services.get(str(kind)) or services[f"{kind.stride}, float32"]
    return Service(
        rested=Curve(*map(tuple, kept["rested"])),
        crowded=Curve(*map(tuple, kept["crowded"])),
        client=Curve(*map(tuple, kept["client"])),
        overlap=kept["overlap"],
        spread=tuple(kept["spread"]),
        request_bytes=kept["request_bytes"],
        answer_bytes=kind.answer_bytes(),
    )


def plans(results: Mapping[str, Any], most: int) -> dict[str, list[dict[str, Any]]]:
    """What is told of fleets of up to so many loaders, for `benchmarks.fleet.tables`."""
    fleets = [loaders for loaders in FLEETS if loaders <= most]
    return {
        "replicas": [
            _sized(results, kind, loaders, think)
            for kind in (Kind("stride 32", "float32"), Kind("stride 8", "float32"))
            for think in THINKS
            for loaders in fleets
        ],
        "wires": [
            _carried(results, Kind(stride, dtype), gbits)
            for stride in ("stride 32", "stride 8")
            for dtype in ("float32", "float16", "uint8")
            for gbits in (1, 10, 25)
        ],
        "losses": [
            _lost(results, Kind("stride 8", "uint8"), loaders, spare, silent)
            for loaders in fleets
            for spare in (1, 0)
            for silent in (False, True)
        ],
    }


def hosts_for(loaders: int) -> int:
    """Machines that so many loaders have."""
    return math.ceil(loaders / LOADERS_A_HOST)


def _sized(results: Mapping[str, Any], kind: Kind, loaders: int, think: float) -> dict[str, Any]:
    fleet = Fleet(loaders, think, hosts=hosts_for(loaders))
    fleet, figures = enough(service_from(results, kind), fleet)
    return {
        "kind": str(kind),
        "loaders": loaders,
        "think": think,
        "replicas": fleet.replicas,
        **asdict(figures),
    }


def _carried(results: Mapping[str, Any], kind: Kind, gbits: float) -> dict[str, Any]:
    """Loaders that one replica on such a wire is enough for."""
    service = service_from(results, kind)
    busy = max(min(service.crowded.values), service.answer_bytes * 8 / (gbits * 1e9))
    loaders = math.ceil(MOST_USED / busy * (_CARRIED_THINK + busy))
    while True:
        fleet = Fleet(loaders, _CARRIED_THINK, hosts=hosts_for(loaders), server_bits=gbits * 1e9)
        figures = at_work(service, fleet)
        if figures.is_enough:
            return {
                "kind": str(kind),
                "answer_bytes": kind.answer_bytes(),
                "gbits": gbits,
                "loaders": loaders,
                **asdict(figures),
            }
        loaders -= max(1, loaders // 20)


def _lost(
    results: Mapping[str, Any], kind: Kind, loaders: int, spare: int, silent: bool
) -> dict[str, Any]:
    service = service_from(results, kind)
    fleet, _ = enough(service, Fleet(loaders, _LOST_THINK, hosts=hosts_for(loaders)))
    # Two at least: the only one cannot be lost without failed calls.
    fleet = replace(fleet, replicas=max(2, fleet.replicas + spare))
    return {
        "kind": str(kind),
        "loaders": loaders,
        "think": _LOST_THINK,
        "replicas": fleet.replicas,
        "silent": silent,
        **asdict(lose(service, fleet, silent=silent)),
    }
