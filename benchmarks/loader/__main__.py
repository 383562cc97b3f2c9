"""`make bench-loader`: what masks cost a DataLoader that decodes and resizes JPEGs."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.common.measure import write
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
from examples.demo import running_server

BATCH = 16
VARIANTS = ("no masks", "remote", "local:", "audited")
# Of the rate with remote masks to that without masks, where the server has a core of its own.
BOUND = 0.95
# Their turns are short.
_CALL_ROUNDS = 3
_PROFILED_CALLS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """How many workers load, and which cores the server and the loader have."""

    workers: int
    server: tuple[int, ...]
    loader: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether the server has its cores for itself."""
        return not set(self.server) & set(self.loader)

    def __str__(self) -> str:
        place = "apart" if self.apart else "shared"
        return f"{self.workers} workers, {place}"

    @property
    def placement(self) -> str:
        """What runs where."""
        loader = "loader and workers" if self.workers else "loader"
        if not self.apart:
            return f"server, {loader} share {_cores(self.server)}"
        return f"server on {_cores(self.server)}, {loader} on {_cores(self.loader)}"


def cases() -> list[Case]:
    """A server with a core of its own, if there are two; and one that shares them all."""
    cores = _allowed()
    apart = [Case(workers, cores[:1], cores[1:]) for workers in (0, 2) if len(cores) > 1]
    return [*apart, *(Case(workers, cores, cores) for workers in (0, 2))]


def _allowed() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return (0,)  # nothing can be pinned here


def _cores(cores: tuple[int, ...]) -> str:
    names = ", ".join(map(str, cores))
    return f"core {names}" if len(cores) == 1 else f"cores {names}"


@contextlib.contextmanager
def placed(case: Case, console: Console) -> Iterator[str]:
    """A server on its cores, and this process with what it starts then on the loader's."""
    before = _allowed()
    _pin(case.server)  # a child starts where its parent runs
    with running_server(console) as address:
        _pin(case.loader)
        try:
            yield address
        finally:
            _pin(before)


def _pin(cores: tuple[int, ...]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def rates(case: Case, pictures: list[Picture], client: CassClient, rounds: int) -> dict[str, Any]:
    """Images a second of each variant, and their ratio to no masks: medians of epochs."""
    loaders: dict[str, DataLoader[Any]] = {
        name: DataLoader(
            Pictures(pictures),
            BATCH,
            num_workers=case.workers,
            persistent_workers=case.workers > 0,
            collate_fn=collate,
        )
        for name, collate in collates(client).items()
    }
    epoch = by_epochs if case.workers else by_batches
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for round_ in range(rounds + 1):
        # Each follows another half of the time, in case it leaves something to do.
        order = VARIANTS[:: 1 if round_ % 2 else -1]
        seconds = epoch({name: loaders[name] for name in order})
        if round_:  # the first one starts workers and fills caches
            for name in VARIANTS:
                taken[name].append(len(pictures) / seconds[name])
    return {
        "images_per_second": {name: median(values) for name, values in taken.items()},
        # Of turns beside each other, since the machine's own speed changes.
        "ratio_to_no_masks": {
            name: median(
                rate / without for rate, without in zip(values, taken["no masks"], strict=True)
            )
            for name, values in taken.items()
        },
    }


def by_epochs(loaders: dict[str, DataLoader[Any]]) -> dict[str, float]:
    """Seconds of an epoch of each, one after another."""
    seconds = {}
    for name, loader in loaders.items():
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds[name] = time.perf_counter() - start
    return seconds


def by_batches(loaders: dict[str, DataLoader[Any]]) -> dict[str, float]:
    """Seconds of an epoch of each, batches taking turns, which nothing loads ahead."""
    seconds = dict.fromkeys(loaders, 0.0)
    running = {name: iter(loader) for name, loader in loaders.items()}
    for _ in range(len(next(iter(loaders.values())))):
        for name, batches in running.items():
            start = time.perf_counter()
            next(batches)
            seconds[name] += time.perf_counter() - start
    return seconds


def rate_table(results: dict[Case, dict[str, Any]], rounds: int) -> Table:
    """All cases."""
    made = Table(title=f"Images a second, median of {rounds}, and their ratio to no masks")
    for column in ("case", *VARIANTS, "bound of remote"):
        made.add_column(column, justify="left" if column == "case" else "right")
    for case, result in results.items():
        ratio = result["ratio_to_no_masks"]
        rate = result["images_per_second"]
        kept = ratio["remote"] >= BOUND
        verdict = f"[green]≥ {BOUND} ✓[/]" if kept else f"[red]≥ {BOUND} ✗[/]"
        made.add_row(
            str(case),
            f"{rate['no masks']:.0f}",
            *(f"{rate[name]:.0f} ({ratio[name]:.2f})" for name in VARIANTS[1:]),
            verdict if case.apart else "none",
        )
    return made


def call_table(calls: dict[str, dict[str, float]]) -> Table:
    """Ways to ask."""
    made = Table(title="ms to collate a batch; of them for masks; CPU time of the loader for masks")
    for column in ("way", "collate", "masks", "CPU"):
        made.add_column(column, justify="left" if column == "way" else "right")
    for name, taken in calls.items():
        made.add_row(
            name, f"{taken['collate']:.2f}", f"{taken['masks']:.2f}", f"{taken['masks_cpu']:.2f}"
        )
    return made


@contextlib.contextmanager
def loaded(folder: Path | None, images: int) -> Iterator[list[Picture]]:
    """Pictures of a COCO folder, or drawn ones."""
    if folder is not None:
        yield coco_pictures(folder, images)
        return
    with tempfile.TemporaryDirectory() as drawn:
        yield drawn_pictures(Path(drawn), images)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each variant gets.")] = 25,
    images: Annotated[int, typer.Option(min=BATCH, help="Images of an epoch.")] = 96,
    data: Annotated[Path | None, typer.Option(help="Folder as ../shared/data/carla.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the medians as JSON.")] = None,
) -> None:
    """Batches of 16 images of 640×640, masks at strides 8, 16 and 32 at once, patch size 1."""
    console = Console(width=110, highlight=False)
    torch.set_num_threads(1)  # as in a worker
    # That two workers have one core is told below.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    results: dict[Case, dict[str, Any]] = {}
    with loaded(data, images) as pictures:
        boxes = sum(len(picture.boxes) for picture in pictures)
        source = f"{data or 'drawn scenes'}: {len(pictures)} JPEGs, {boxes} boxes"
        console.print(f"{source}; resized to {SIDE}×{SIDE}, strides {STRIDES}, batches of {BATCH}")
        for case in cases():
            console.print(f"{case}: {case.placement}")
            with placed(case, console) as address, CassClient(address) as client:
                results[case] = rates(case, pictures, client, rounds)
        with placed(cases()[0], console) as address, CassClient(address) as client:
            samples = [Pictures(pictures)[i] for i in range(BATCH)]
            calls = time_calls(client, samples, _CALL_ROUNDS * rounds)
            parts = profile(client, samples, _PROFILED_CALLS * rounds)
    console.print(rate_table(results, rounds), call_table(calls))
    told = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
    console.print(f"One call for the masks of a batch, ms: {told}")
    if out is not None:
        write(
            out,
            f"make bench-loader ROUNDS={rounds} EPOCH={images}",
            {
                "pictures": source,
                "cases": {
                    str(case): {"placement": case.placement, **results[case]} for case in results
                },
                "milliseconds_to_collate": calls,
                "milliseconds_of_a_call": parts,
            },
        )


if __name__ == "__main__":
    typer.run(main)
