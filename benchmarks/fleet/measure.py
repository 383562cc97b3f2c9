"""A real server under loaders that think between their calls: the model's costs, and its check.

The server has one core, all loaders the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.common.callers import Turn, take_turn
from benchmarks.common.server import server_seconds
from benchmarks.common.workload import IMAGES, MAPS, Case, request_of
from benchmarks.fleet.model import Costs, Fleet, simulate
from tests.support.servers import ServerProcess

_SIMULATED_SECONDS, _WARM_UP_SECONDS = 3.0, 0.3
_MOST_SPREAD = 2000


@dataclass(frozen=True, slots=True)
class Load:
    """A number of loaders, and the mean seconds for which each thinks."""

    loaders: int
    think: float


# The costs of a call after a pause come from one loader, those of a call without from a crowd.
ALONE = tuple(Load(1, think) for think in (0.0, 1e-3, 10e-3))
CROWD = Load(8, 0.0)
CHECKED = (Load(8, 10e-3), Load(16, 0.0), Load(32, 40e-3), Load(128, 320e-3))
KINDS = (("stride 32", "float32"), ("stride 8", "float32"), ("stride 8", "uint8"))
"""Stride and dtype of the masks."""

Turns = Mapping[Load, Sequence[Turn]]


def measure(server: ServerProcess, rounds: int, seconds: float) -> list[Turns]:
    """Turns of all loads for each of `KINDS`, interleaved."""
    loads = (*ALONE, CROWD, *CHECKED)
    turns: list[dict[Load, list[Turn]]] = [{load: [] for load in loads} for _ in KINDS]
    for _, (kind, taken), load in product(range(rounds), zip(KINDS, turns, strict=True), loads):
        turn = take_turn(
            server.address,
            request_of(Case(*kind, 1, streamed=False)),
            load.loaders,
            max(seconds, 3 * load.think),
            partial(server_seconds, server),
            load.think,
        )
        taken[load].append(turn)
    return [*turns]


def costs_of(stride: str, dtype: str, turns: Turns) -> Costs:
    """Medians of what calls cost."""

    def middle(load: Load, name: str) -> float:
        return float(median(getattr(turn, name) for turn in turns[load]))

    rested = [middle(load, "server") for load in ALONE]
    # What is not the server's work is its rest.
    pauses = [1 / middle(load, "rate") - cost for load, cost in zip(ALONE, rested, strict=True)]
    # Of the turn whose slowest calls are neither few nor many.
    times = [np.array(turn.latencies) / fmean(turn.latencies) for turn in turns[ALONE[0]]]
    times.sort(key=lambda one: float(np.percentile(one, 99)))
    spread = times[len(times) // 2][:_MOST_SPREAD].round(3).tolist()
    return Costs(
        pauses=tuple(max(pause, 0.0) for pause in pauses),
        rested=tuple(rested),
        busy=middle(CROWD, "server"),
        client=middle(CROWD, "client"),
        spread=spread,
        answer_bytes=answer_bytes(stride, dtype),
    )


def answer_bytes(stride: str, dtype: str) -> int:
    """Bytes of a batch's masks."""
    (height, width), _ = MAPS[stride]
    return IMAGES * height * width * np.dtype(dtype).itemsize


def checks(costs: Costs, turns: Turns) -> list[dict[str, Any]]:
    """Medians of the loads that no cost was taken from, beside what the model has for them."""
    found = []
    for load in CHECKED:
        fleet = Fleet(load.loaders, load.think, loaders_share_core=True, bits=float("inf"))
        outcome = simulate(costs, fleet, _SIMULATED_SECONDS)
        took = [took for begun, took in outcome.answers if begun > _WARM_UP_SECONDS]
        found.append(
            {
                "loaders": load.loaders,
                "think": load.think,
                "server_used": median(turn.server * turn.rate for turn in turns[load]),
                "rate": median(turn.rate for turn in turns[load]),
                "p99": median(turn.p99 for turn in turns[load]),
                "model_rate": len(took) / (_SIMULATED_SECONDS - _WARM_UP_SECONDS),
                "model_p99": float(np.percentile(took, 99)),
            }
        )
    return found
