"""What kept memory costs and gains a loader's worker: `memory.py ADDRESS BATCHES [IMAGES]`.

One worker of a `DataLoader` collates batches of 16 with the masks of 30 boxes each at stride 8,
float32 (942 kB), from the server; five times with `keep_memory` and without, in turn. Prints the
medians of the worker's resident memory, its processor time of a batch and its page faults. Batches
have no images, or uint8 ones of 1280×736 (45 MB): IMAGES is ``collated`` by torch, into shared
memory at once, or ``stacked`` by a `collate_fn`.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from cass_client import CassClient, MaskSpec
from cass_client.torch import MaskCollate
from cass_core.synthetic import street_boxes

SIZE, MAP, BATCH = (736, 1280), (92, 160), 16


def boxes_and_size(sample: Any) -> tuple[Any, Any]:
    """For `MaskCollate`, whose samples are boxes."""
    return torch.from_numpy(sample), SIZE


def batch_and_usage(images: str, samples: Sequence[Any]) -> list[Any]:
    """The batch's images, if any, and what the worker has used until now."""
    made = [torch.zeros(3, *SIZE, dtype=torch.uint8) for _ in samples if images]
    batch = (torch.stack if images == "stacked" else default_collate)(made) if images else None
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    total, shared = (
        int(status.partition(name)[2].split()[0]) / 1e3 for name in ("VmRSS:", "RssShmem:")
    )
    return [batch, (time.process_time(), used.ru_minflt, total - shared, used.ru_maxrss / 1e3)]


def measured(address: str, batches: int, images: str, keep: bool) -> dict[str, float]:
    """One epoch of one worker; megabytes, µs and page faults a batch."""
    collate = MaskCollate(
        CassClient(address),
        MAP,
        MaskSpec(),
        boxes=boxes_and_size,
        collate_fn=partial(batch_and_usage, images),
        keep_memory=keep,
    )
    data: Any = street_boxes(BATCH, 30, image_size=SIZE, seed=0) * batches
    used = [batch[1] for batch in DataLoader(data, BATCH, collate_fn=collate, num_workers=1)]
    warm = len(used) // 5
    (cpu, faults, *_), (cpu_end, faults_end, resident, peak) = used[warm], used[-1]
    count = len(used) - 1 - warm
    return {
        "resident_mb": resident,
        "peak_mb": peak,
        "cpu_us": (cpu_end - cpu) / count * 1e6,
        "faults": (faults_end - faults) / count,
    }


if __name__ == "__main__":
    address, batches, *images = sys.argv[1:]
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(5):
        for keep, found in runs.items():
            found.append(measured(address, int(batches), "".join(images), keep))
    for keep, found in runs.items():
        middle = {k: round(statistics.median(run[k] for run in found), 1) for k in found[0]}
        print(json.dumps({"keep_memory": keep, **middle}))
