"""How the benchmarks take and keep their times."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


def interleaved(
    calls: dict[str, tuple[Callable[[], object], int]], rounds: int
) -> dict[str, float]:
    """Median seconds of one call of each function, the functions taking turns.

    Args:
        calls: by name, a function and how often it is called in a turn.
        rounds: number of turns that each has.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (function, repeats) in calls.items():
            function()  # the caches are another function's
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: float(np.median(values)) for name, values in times.items()}


def write(path: Path, command: str, results: dict[str, Any]) -> None:
    """Write results as JSON, with the machine and the command that made them."""
    record = {
        "command": command,
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {p: metadata.version(p) for p in ("numpy", "torch", "numba", "grpcio")},
        **results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
