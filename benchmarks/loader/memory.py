"""What kept memory costs and gains a loader's worker: loader_memory.py ADDRESS BATCHES [collated].

One worker of a `DataLoader` collates batches of 16 with the masks of 30 boxes each at stride 8,
float32 (942 kB), from the server; five times with `keep_memory` and without, in turn. Prints the
medians of the worker's resident memory, its processor time of a batch and its page faults. Batches
have no images, or with a third argument uint8 ones of 1280×736 (45 MB): ``collated`` by torch, into
shared memory at once, or ``stacked`` by a `collate_fn`.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from cass_client import CassClient, MaskSpec
from cass_client.torch import MaskCollate
from cass_core.synthetic import street_boxes

STACKED = "stacked" in sys.argv
SIZE, MAP, BATCH = (736, 1280), (92, 160), 16


class Scenes(Dataset[Any]):
    """Drawn boxes, and images of zeros where they are wanted."""

    def __init__(self, batches: int, images: bool) -> None:
        self.length, self.images = batches * BATCH, images
        self.boxes = [torch.from_numpy(b) for b in street_boxes(BATCH, 30, image_size=SIZE, seed=0)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        image = torch.zeros(3, *SIZE, dtype=torch.uint8) if self.images else None
        return image, self.boxes[index % BATCH]


def boxes_and_size(sample: Any) -> tuple[Any, Any]:
    """For `MaskCollate`."""
    return sample[1], SIZE


def usage(samples: Sequence[Any]) -> list[Any]:
    """The batch: its images, if any, and what the worker has used until now."""
    images: Any = None if samples[0][0] is None else [s[0] for s in samples]
    if images is not None:
        images = torch.stack(images) if STACKED else default_collate(images)
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1e3
    shared = int(status.partition("RssShmem:")[2].split()[0]) / 1e3
    return [images, (time.process_time(), used.ru_minflt, resident - shared, used.ru_maxrss / 1e3)]


def measured(address: str, batches: int, images: bool, keep: bool) -> dict[str, float]:
    """One epoch of one worker; megabytes, µs and page faults a batch."""
    collate = MaskCollate(
        CassClient(address),
        MAP,
        MaskSpec(patch_size=1),
        boxes=boxes_and_size,
        collate_fn=usage,
        keep_memory=keep,
    )
    loader = DataLoader(Scenes(batches, images), BATCH, collate_fn=collate, num_workers=1)
    used = [batch[1] for batch in loader]
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
            found.append(measured(address, int(batches), bool(images), keep))
    for keep, found in runs.items():
        middle = {k: round(statistics.median(run[k] for run in found), 1) for k in found[0]}
        print(json.dumps({"keep_memory": keep, **middle}))
