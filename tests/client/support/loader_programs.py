"""A training program's data loading, which tests start as a process: NAME ADDRESS CONTEXT FILE.

It is a file of its own because spawned workers import it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cass_client import CassClient, MaskSpec
from cass_client.torch import MaskCollate
from cass_core.synthetic import street_boxes

SAMPLES = 24
SIZE, MAP = (96, 160), (12, 20)
SPEC = MaskSpec(patch_size=1)


class Scenes(Dataset[dict[str, Any]]):
    """Boxes that depend on the index alone; those of `bad` are none."""

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        boxes = torch.from_numpy(street_boxes(1, 5, image_size=SIZE, seed=index)[0])
        boxes = -boxes if index == self.bad else boxes
        return {"index": index, "image": torch.zeros(3, *SIZE), "boxes": boxes}


def kept(batches: Iterable[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The indices and masks of batches, one after another."""
    found = [(batch["index"], batch["masks"]) for batch in batches]
    indices, masks = zip(*found, strict=True)
    return {"indices": torch.cat(indices).numpy(), "masks": torch.cat(masks).numpy()}


def told(samples: Sequence[Any]) -> dict[str, Any]:
    """Collates, and tells that the request for masks comes next."""
    os.write(1, b"asking\n")
    return {"samples": samples}


def loader(
    client: CassClient,
    context: str,
    workers: int,
    dataset: Scenes = Scenes(),  # noqa: B008 - never changed
    collate_fn: Any = None,
    **options: Any,
) -> Any:
    """A DataLoader of batches of four, in a new order each epoch."""
    return DataLoader(
        dataset,
        batch_size=4,
        shuffle=True,
        collate_fn=MaskCollate(client, MAP, SPEC, collate_fn=collate_fn),
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        **options,
    )


def first_two(batches: Iterable[Any]) -> list[Any]:
    """The first two batches of an epoch that is then given up."""
    iterator = iter(batches)
    return [next(iterator), next(iterator)]


def epochs(client: CassClient, context: str, file: str) -> None:
    """Epochs of several loaders by a client that this process has used, kept in the file."""
    client.info()
    runs: dict[str, Any] = {}
    # Workers that are forked start at once, others import torch for seconds.
    if context == "fork":
        runs["0 workers"] = kept(loader(client, context, 0))
        runs["1 worker"] = kept(loader(client, context, 1))
        four = loader(client, context, 4)
        runs["4 workers, stopped"] = kept(first_two(four))
        runs["4 workers, again"] = kept(four)
    several = loader(client, context, 4 if context == "fork" else 2, persistent_workers=True)
    runs["persistent, first"] = kept(several)
    runs["persistent, stopped"] = kept(first_two(several))
    runs["persistent, second"] = kept(several)
    runs["persistent, third"] = kept(several)
    client.info()
    np.savez(file, **{f"{run}/{k}": v for run, found in runs.items() for k, v in found.items()})


def bad_sample(client: CassClient, context: str, _: str) -> None:
    """An epoch with a sample that is refused, whose error is printed."""
    try:
        kept(loader(client, context, 1, Scenes(bad=7)))
    except RuntimeError as error:
        print(error)


def endless(client: CassClient, context: str, _: str) -> None:
    """Epochs without end; workers tell when they ask, and the process when it has a batch."""
    workers = 4 if context == "fork" else 2
    batches = loader(client, context, workers, collate_fn=told, persistent_workers=True)
    while True:
        for _batch in batches:
            print("batch", flush=True)


def faults() -> int:
    """Page faults of five blocks of 40 MiB, filled and freed one after another.

    A block that is new to the process has 20 of them at least, one for each huge page.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
    size, counts = 40 << 20, []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
        libc.memset(block, 1, ctypes.c_size_t(size))
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sum(counts[1:])  # the first is new in any case


def counted(samples: Sequence[Any]) -> dict[str, Any]:
    """Collates, and counts page faults in the process that does it."""
    return {"faults": faults()}


def memory(client: CassClient, context: str, _: str) -> None:
    """Prints the page faults of workers, and of this process before and after."""

    def of_loader(workers: int, **options: Any) -> int:
        collate = MaskCollate(client, MAP, SPEC, collate_fn=counted, **options)
        start = context if workers else None
        batches = DataLoader(
            Scenes(), 12, collate_fn=collate, num_workers=workers, multiprocessing_context=start
        )
        return int([batch["faults"] for batch in batches][-1])

    found = {"worker": of_loader(1), "told not to": of_loader(1, keep_memory=False)}
    found |= {"no worker": of_loader(0), "parent": faults()}
    print(json.dumps(found))


if __name__ == "__main__":
    # It would make each spawned worker two seconds later.
    assert "torch._dynamo" not in sys.modules
    name, address, *rest = sys.argv[1:]
    # As a terminal leaves it; what a shell's background job starts ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # More workers than cores, and threads (of gRPC) beside a fork: both are what is tested here.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    warnings.filterwarnings("ignore", ".* is multi-threaded, use of fork")
    programs = {"epochs": epochs, "bad_sample": bad_sample, "endless": endless, "memory": memory}
    programs[name](CassClient(address, timeout=60), *rest)
