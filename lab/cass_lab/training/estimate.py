"""How long runs will take, by a short trial of each kind."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from cass_lab.data.dataset import Dataset
from cass_lab.training.runs import Run, Store, carry_out

_TRIAL_STEPS = 4


def estimate_seconds(runs: Sequence[Run], data: tuple[Dataset, Dataset], jobs: int) -> float:
    """Seconds that the runs will take, so many at a time; takes some seconds itself.

    Args:
        runs: what is still to be done; at least one.
        data: to train and to measure on.
        jobs: processes, each with one thread.
    """
    by_measure: dict[str, list[Run]] = {}
    for run in runs:
        by_measure.setdefault(run.measure, []).append(run)
    total = 0.0
    for mine in by_measure.values():
        epoch, evaluation = _trial(mine[0], data)
        total += sum(run.recipe.epochs * epoch + evaluation for run in mine)
    return total / min(jobs, len(runs))


def _trial(run: Run, data: tuple[Dataset, Dataset]) -> tuple[float, float]:
    """Seconds of an epoch and of an evaluation, from those of a few images."""
    short = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, epochs=1))
    few = [each.first(_TRIAL_STEPS * run.recipe.batch_size) for each in data]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of the runs
    try:
        _timed(short, few)  # compiles and warms up
        started, trained, measured = _timed(short, few)
    finally:
        torch.set_num_threads(threads)
    per_train, per_test = (len(each) / len(part) for each, part in zip(data, few, strict=True))
    return (trained - started) * per_train, (measured - trained) * per_test


def _timed(run: Run, data: Sequence[Dataset]) -> list[float]:
    """When the run began, was trained, and was measured."""
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        carry_out(
            run, data[0], data[1], Store(Path(folder)), lambda: times.append(time.perf_counter())
        )
    return times
