"""How the benchmarks take and keep their times."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


def interleaved(
    calls: Mapping[Key, tuple[Callable[[], object], int]],
    rounds: int,
    settle: Callable[[], object] = lambda: None,
) -> dict[Key, float]:
    """Median seconds of one call of each function, the functions taking turns.

    Args:
        calls: by name, a function and how often it is called in a turn.
        rounds: number of turns that each has.
        settle: called before each turn is timed, such as what waits for a device.
    """
    times: dict[Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (function, repeats) in calls.items():
            function()  # the caches are another function's
            settle()
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: float(np.median(values)) for name, values in times.items()}


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios of neighbours in a round, since the machine's own speed changes."""
    return float(np.median(np.divide(values, others)))


def judged(
    ratio: float, *, least: float | None = None, most: float | None = None
) -> dict[str, float | bool | None]:
    """A ratio with its bound, if it has one, and whether that holds."""
    bound = most if least is None else least
    holds = None if bound is None else (ratio >= bound if most is None else ratio <= bound)
    return {"ratio": ratio, "bound": bound, "holds": holds}


def difference(long: Callable[[], object], short: Callable[[], object], pairs: int) -> float:
    """Median of how many seconds more one call takes than another, call by call in turn.

    What two far larger times differ by would otherwise drown in the machine's own changes.
    """
    differences = []
    for _ in range(pairs):
        start = time.perf_counter()
        long()
        between = time.perf_counter()
        short()
        differences.append(2 * between - start - time.perf_counter())
    return float(np.median(differences))


def fitted(
    calls: Mapping[Key, Callable[[], object]], turn: float = 0.005
) -> dict[Key, tuple[Callable[[], object], int]]:
    """Calls for `interleaved`, each as often in a turn as takes about ``turn`` seconds."""
    return {
        name: (function, max(1, min(1000, int(turn / seconds_of(function)))))
        for name, function in calls.items()
    }


def seconds_of(function: Callable[[], object]) -> float:
    """Seconds of one call, after another that may compile: a guess, not a measurement."""
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def write(path: Path, command: str, results: dict[str, Any]) -> None:
    """Write results as JSON, with the machine and the command that made them."""
    record = {
        "command": command,
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": _versions("numpy", "torch", "triton", "numba", "grpcio"),
        **results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
