"""What masks cost a loader for one batch, by the kind of call, and where a call's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from statistics import median
from typing import Any

from benchmarks.loader.data import MAPS, SIDE, SPEC, Sample, stack
from cass_client import BoxBatch, CallProfile, CassClient, MaskRequest
from cass_client.torch import MaskCollate

_SIZE = (SIDE, SIDE)
_REPEATS = 5
_AHEAD = 4


def time_calls(
    client: CassClient, samples: Sequence[Sample], rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds to collate a batch, and what its masks add to them and to CPU time.

    Args:
        client: of a server.
        samples: of the batch, decoded.
        rounds: turns of each way.
    """
    ways = _ways(client, samples)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(_REPEATS):
                way()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if round_:  # the first one is for connections and windows
                taken[name].append((wall / _REPEATS * 1e3, cpu / _REPEATS * 1e3))
    without = taken["no masks"]
    return {
        name: {
            "collate": median(wall for wall, _ in times),
            # Of neighbours in a round.
            "masks": median(t[0] - w[0] for t, w in zip(times, without, strict=True)),
            "masks_cpu": median(t[1] - w[1] for t, w in zip(times, without, strict=True)),
        }
        for name, times in taken.items()
    }


def profile(client: CassClient, samples: Sequence[Sample], calls: int) -> dict[str, float]:
    """Median milliseconds of each part of a call for the batch's masks."""
    boxes = _boxes(samples)
    made = [client.profile(boxes, _SIZE, MAPS, SPEC) for _ in range(calls)]
    parts = [field.name for field in fields(CallProfile)]
    return {part: median(getattr(one, part) for one in made) * 1e3 for part in parts}


def _ways(client: CassClient, samples: Sequence[Sample]) -> dict[str, Callable[[], Any]]:
    """Ways to collate the samples, all but the first with masks."""

    def requests() -> Iterator[MaskRequest]:
        while True:
            yield MaskRequest(_boxes(samples), _SIZE, MAPS, SPEC)

    def future() -> Any:
        masks = client.generate_mask_future(_boxes(samples), _SIZE, MAPS, SPEC)
        return (*stack(samples), masks.result())

    def streamed(answers: Iterator[Any]) -> Any:
        return (*stack(samples), next(answers))

    return {
        "no masks": partial(stack, samples),
        "MaskCollate": partial(MaskCollate(client, MAPS, SPEC, collate_fn=stack), samples),
        "one call": lambda: (
            *stack(samples),
            client.generate_mask(_boxes(samples), _SIZE, MAPS, SPEC),
        ),
        "a future, collated meanwhile": future,
        "one stream": partial(streamed, client.stream_masks(requests(), in_flight=1)),
        f"one stream, {_AHEAD} ahead": partial(
            streamed, client.stream_masks(requests(), in_flight=_AHEAD)
        ),
    }


def _boxes(samples: Sequence[Sample]) -> BoxBatch:
    return BoxBatch.from_list([target["boxes"] for _, target in samples])
