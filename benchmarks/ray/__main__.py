"""`make bench-ray`: native replicas on Ray and Serve's gRPC ingress, beside a server without Ray.

All that serves has one core, the callers another. The clusters run one after the other, since each
takes a share of the core even when nobody calls.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from statistics import median
from typing import Any

import grpc
import numpy as np
from typer import run

from benchmarks.common.callers import Turn, take_turn
from benchmarks.common.measure import median_ratio, write
from benchmarks.common.processes import KEPT_MEMORY, cpu_seconds, on_core, two_cores
from benchmarks.common.server import server_on
from benchmarks.common.tables import Out, Rounds, Seconds, show
from benchmarks.common.workload import (
    CHANNEL_OPTIONS,
    GENERATE_MASK,
    IMAGE_SIZE,
    MAPS,
    SPEC,
    Case,
    boxes_of,
    request_of,
)
from cass import convert
from cass.v1 import cass_pb2 as pb
from cass_core import generate_mask

IN_FLIGHT = 8
CASES = [Case(stride, "float32", IN_FLIGHT, streamed=False) for stride in MAPS]
WITHOUT = "native server"
WAYS = {"serve": "Serve's gRPC ingress", "replicas": "native replicas"}
_STOP_SECONDS = 60.0
_SETTLE_SECONDS, _IDLE_CORES = 60, 0.2
# The first turn of a way fills its caches.
_WARM_UP_TURNS = 1


@contextlib.contextmanager
def cluster(kind: str, core: int) -> Iterator[tuple[str, Callable[[], float]]]:
    """Where a cluster on a core takes calls, and the CPU time of all its processes until now."""
    command = [sys.executable, "-m", "benchmarks.ray.hosts", kind]
    with on_core(core):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **KEPT_MEMORY}, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not (address := process.stdout.readline().strip()):
            raise SystemExit(f"the cluster does not run: {kind}")
        yield address, lambda: cpu_seconds(process.pid)
    finally:
        process.stdin.close()
        process.wait(_STOP_SECONDS)


def wait_until_idle(used: Callable[[], float]) -> None:
    """Return once a cluster's own processes have started, at the latest after a minute."""
    for _ in range(_SETTLE_SECONDS):
        before = used()
        time.sleep(1)
        if used() - before < _IDLE_CORES:
            return


def check(address: str, case: Case) -> None:
    """Compare an answer with local masks."""
    boxes, feature_map = boxes_of(case.stride)
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(GENERATE_MASK)
        answer = pb.GenerateMaskResponse.FromString(call(request_of(case), wait_for_ready=True))
    (masks,), _, _ = convert.masks_of(answer)
    if not np.array_equal(masks, generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC)):
        raise SystemExit(f"{address}, {case}: other masks than local ones")


def side_by_side(
    ways: Mapping[str, tuple[str, Callable[[], float]]], case: Case, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Medians of ways that take turns, each with its address and its CPU time until now."""
    taken: dict[str, list[Turn]] = {name: [] for name in ways}
    for round_ in range(_WARM_UP_TURNS + rounds):
        for name, (address, used) in ways.items():
            turn = take_turn(address, request_of(case), IN_FLIGHT, seconds, used)
            if round_ >= _WARM_UP_TURNS:
                taken[name].append(turn)
    rates = {name: [turn.rate for turn in turns] for name, turns in taken.items()}
    return {
        name: {
            "requests_per_second": median(rates[name]),
            "ratio": median_ratio(rates[name], rates[WITHOUT]),
            "serving_cpu_microseconds": 1e6 * median(turn.server for turn in turns),
        }
        for name, turns in taken.items()
    }


def main(rounds: Rounds = 7, seconds: Seconds = 0.5, out: Out = None) -> None:
    """Each way takes turns with a server without Ray; ratios are of neighbours."""
    ours, theirs = two_cores()
    results: dict[str, dict[str, dict[str, float]]] = {str(case): {} for case in CASES}
    with server_on(ours) as native:
        alone = native.address, lambda: cpu_seconds(native.process.pid)
        for kind, way in WAYS.items():
            with cluster(kind, ours) as running, on_core(theirs):
                wait_until_idle(running[1])
                for case in CASES:
                    check(running[0], case)
                    ways = {WITHOUT: alone, way: running}
                    results[str(case)] |= side_by_side(ways, case, rounds, seconds)
    for name, found in results.items():
        show(f"Batches of 16 images of 1280×736: {name}", found)
    if out is not None:
        command = f"make bench-ray ROUNDS={rounds} SECONDS={seconds:g}"
        write(out, command, {"ray": metadata.version("ray"), "cases": results})


if __name__ == "__main__":
    run(main)
