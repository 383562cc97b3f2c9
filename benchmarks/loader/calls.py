"""What masks cost a loader for one batch, by the kind of call, and where a call's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common.workload import SPEC
from benchmarks.loader.data import MAPS, SIDE, Sample, stack
from cass_client import BoxBatch, CallProfile, CassClient, MaskRequest
from cass_client.torch import MaskCollate

_SIZE = (SIDE, SIDE)
_REPEATS = 5
_AHEAD = 4


def time_calls(
    client: CassClient, samples: Sequence[Sample], rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds to collate a batch, and what its masks add to them and to CPU time."""
    ways = _ways(client, samples)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(_REPEATS):
                way()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    # The first round is for connections and windows; differences are of neighbours in a round.
    times = {name: np.array(pairs[1:]) / _REPEATS * 1e3 for name, pairs in taken.items()}
    added = {name: np.median(one - times["no masks"], axis=0) for name, one in times.items()}
    return {
        name: {
            "collate": float(np.median(one[:, 0])),
            "masks": float(added[name][0]),
            "masks_cpu": float(added[name][1]),
        }
        for name, one in times.items()
    }


def profile(client: CassClient, samples: Sequence[Sample], calls: int) -> dict[str, float]:
    """Median milliseconds of each part of a call for the batch's masks."""
    made = [client.profile(_boxes(samples), _SIZE, MAPS, SPEC) for _ in range(calls)]
    return {
        part.name: float(np.median([getattr(one, part.name) for one in made])) * 1e3
        for part in fields(CallProfile)
    }


def _ways(client: CassClient, samples: Sequence[Sample]) -> dict[str, Callable[[], Any]]:
    """Ways to collate the samples, all but the first with masks."""

    def requests() -> Iterator[MaskRequest]:
        while True:
            yield MaskRequest(_boxes(samples), _SIZE, MAPS, SPEC)

    def future() -> Any:
        masks = client.generate_mask_future(_boxes(samples), _SIZE, MAPS, SPEC)
        return (*stack(samples), masks.result())

    streamed = client.stream_masks(requests(), in_flight=_AHEAD)
    return {
        "no masks": partial(stack, samples),
        "MaskCollate": partial(MaskCollate(client, MAPS, SPEC, collate_fn=stack), samples),
        "a future, collated meanwhile": future,
        f"one stream, {_AHEAD} ahead": lambda: (*stack(samples), next(streamed)),
    }


def _boxes(samples: Sequence[Sample]) -> BoxBatch:
    return BoxBatch.from_list([target["boxes"] for _, target in samples])
