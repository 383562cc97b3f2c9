"""`make bench-loader`: what masks cost a DataLoader that decodes and resizes JPEGs."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch.utils.data import DataLoader

from benchmarks.common.measure import judged, median_ratio, write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.common.server import server_on
from benchmarks.common.tables import CONSOLE, Out, Rounds, show
from benchmarks.loader.calls import profile, time_calls
from benchmarks.loader.data import (
    SIDE,
    STRIDES,
    Picture,
    Pictures,
    coco_pictures,
    collates,
    drawn_pictures,
)
from cass_client import CassClient

BATCH = 16
VARIANTS = ("no masks", "remote", "local:", "audited")
# Of the rate with remote masks to that without masks, where the server has a core of its own.
BOUND = 0.95
# Their turns are short.
_CALL_ROUNDS = 3
_PROFILED_CALLS = 20


@contextlib.contextmanager
def placed(is_apart: bool) -> Iterator[CassClient]:
    """A client, with server and loader on a core each, or sharing two."""
    cores = two_cores()
    with (
        server_on(cores[0] if is_apart else None) as server,
        on_core(cores[1] if is_apart else None),
        CassClient(server.address) as client,
    ):
        yield client


def rates(
    workers: int, pictures: list[Picture], client: CassClient, rounds: int
) -> dict[str, dict[str, float]]:
    """Images a second of each variant, and their ratio to no masks: medians of epochs."""
    loaders: dict[str, DataLoader[Any]] = {
        name: DataLoader(
            Pictures(pictures),
            BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
        )
        for name, collate in collates(client).items()
    }
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for round_ in range(rounds + 1):
        # Each follows another half of the time, in case it leaves something to do.
        order = VARIANTS[:: 1 if round_ % 2 else -1]
        seconds = time_epochs({name: loaders[name] for name in order})
        if round_:  # the first one starts workers and fills caches
            for name in VARIANTS:
                taken[name].append(len(pictures) / seconds[name])
    return {
        "images_per_second": {name: median(values) for name, values in taken.items()},
        "ratio_to_no_masks": {
            name: median_ratio(values, taken["no masks"]) for name, values in taken.items()
        },
    }


def time_epochs(loaders: dict[str, DataLoader[Any]]) -> dict[str, float]:
    """Seconds of an epoch of each, one after another."""
    seconds = {}
    for name, loader in loaders.items():
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds[name] = time.perf_counter() - start
    return seconds


def main(
    rounds: Rounds = 25,
    images: Annotated[int, typer.Option(min=BATCH, help="Images of an epoch.")] = 96,
    data: Annotated[Path | None, typer.Option(help="Folder as ../shared/data/carla.")] = None,
    out: Out = None,
) -> None:
    """Batches of 16 images of 640×640, masks at strides 8, 16 and 32 at once, patch size 1."""
    torch.set_num_threads(1)  # as in a worker
    # Two workers on one core are a case.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as drawn:
        pictures = coco_pictures(data, images) if data else drawn_pictures(Path(drawn), images)
        boxes = sum(len(picture.boxes) for picture in pictures)
        source = f"{data or 'drawn scenes'}: {len(pictures)} JPEGs, {boxes} boxes"
        CONSOLE.print(f"{source}; resized to {SIDE}×{SIDE}, strides {STRIDES}, batches of {BATCH}")
        for is_apart, workers in product((True, False), (0, 2)):
            case = f"{workers} workers, server {'apart' if is_apart else 'beside'}"
            with placed(is_apart) as client:
                results[case] = rates(workers, pictures, client, rounds)
        with placed(True) as client:
            samples = [Pictures(pictures)[i] for i in range(BATCH)]
            calls = time_calls(client, samples, _CALL_ROUNDS * rounds)
            parts = profile(client, samples, _PROFILED_CALLS * rounds)
    remote = {name: case["ratio_to_no_masks"]["remote"] for name, case in results.items()}
    show("Apart: server on one core, loader and workers on another; beside: all on both", results)
    apart = {name: judged(ratio, least=BOUND) for name, ratio in remote.items() if "apart" in name}
    show("Rate with remote masks / without masks", apart)
    show("ms to collate a batch; what masks add, and to the loader's CPU time", calls)
    show("One call for the masks of a batch, ms", parts)
    if out is not None:
        written = {
            "pictures": source,
            "cases": results,
            "milliseconds_to_collate": calls,
            "milliseconds_of_a_call": parts,
        }
        write(out, f"make bench-loader ROUNDS={rounds} EPOCH={images}", written)


if __name__ == "__main__":
    typer.run(main)
