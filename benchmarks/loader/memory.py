"""`python -m benchmarks.loader.memory`: what kept memory gains and costs a loader's worker.

One worker of a `DataLoader` collates batches of 16 with the masks of 30 boxes each at stride 8,
float32 (942 kB), from a server on another core, with `keep_memory` and without in turn. Batches
have no images, or uint8 ones of 1280×736 (45 MB), collated by torch into shared memory at once, or
stacked by a `collate_fn`.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import typer
from torch.utils.data import DataLoader, default_collate

from benchmarks.common.measure import write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.common.server import server_on
from benchmarks.common.tables import Out, Rounds, show
from cass_client import CassClient
from cass_client.torch import MaskCollate
from cass_core.synthetic import street_boxes

SIZE, MAP, BATCH = (736, 1280), (92, 160), 16
CASES = {"masks alone": 150, "and images, collated": 40, "and images, stacked": 40}
"""Batches of an epoch, the first fifth of which is not counted."""


def boxes_and_size(sample: Any) -> tuple[Any, Any]:
    """For `MaskCollate`, whose samples are boxes."""
    return torch.from_numpy(sample), SIZE


def batch_and_usage(case: str, samples: Sequence[Any]) -> list[Any]:
    """The batch's images, if any, and what the worker has used until now."""
    has_images, is_stacked = "images" in case, "stacked" in case
    made = [torch.zeros(3, *SIZE, dtype=torch.uint8) for _ in samples if has_images]
    batch = (torch.stack if is_stacked else default_collate)(made) if has_images else None
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    total, shared = (
        int(status.partition(name)[2].split()[0]) / 1e3 for name in ("VmRSS:", "RssShmem:")
    )
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return [batch, (time.process_time() * 1e3, faults, total - shared)]


def epoch(address: str, case: str, keep: bool) -> dict[str, float]:
    """CPU milliseconds and page faults per batch of the worker, and its resident megabytes."""
    collate = MaskCollate(
        CassClient(address),
        MAP,
        boxes=boxes_and_size,
        collate_fn=partial(batch_and_usage, case),
        keep_memory=keep,
    )
    data: Any = street_boxes(BATCH, 30, image_size=SIZE, seed=0) * CASES[case]
    used = [batch[1] for batch in DataLoader(data, BATCH, collate_fn=collate, num_workers=1)]
    warm = len(used) // 5
    (cpu, faults, _), (cpu_end, faults_end, resident) = used[warm], used[-1]
    count = len(used) - 1 - warm
    return {
        "cpu_ms": (cpu_end - cpu) / count,
        "faults": (faults_end - faults) / count,
        "resident_mb": resident,
    }


def main(rounds: Rounds = 5, out: Out = None) -> None:
    """What kept memory gains and costs a loader's worker."""
    cores = two_cores()
    results: dict[str, dict[str, float]] = {}
    with server_on(cores[0]) as server, on_core(cores[1]):
        for case in CASES:
            ways = {"freed": False, "kept": True}
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, keep in ways.items():
                    runs[way].append(epoch(server.address, case, keep))
            results[case] = {
                f"{name}, {way}": median(run[name] for run in found)
                for name in runs["kept"][0]
                for way, found in runs.items()
            }
    show("Per batch: CPU ms and page faults of the worker; resident MB", results)
    if out is not None:
        command = f"python -m benchmarks.loader.memory --rounds {rounds}"
        write(out, command, {"cases": results})


if __name__ == "__main__":
    typer.run(main)
