"""Times of `generate_mask` over sweeps: boxes per image, patches, images per batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.measure import fitted, interleaved, seconds_of
from benchmarks.common.workload import IMAGE_SIZE
from benchmarks.core.masks import compared
from cass_core.synthetic import street_boxes

# Seconds: what is compared ends where one call takes longer.
_PATIENCE = 0.3
_COMPARED = ("audited", "heatmaps")
# Rounds from which a sweep has all its points.
_MANY_ROUNDS = 10

Point = tuple[int, int, tuple[int, int], tuple[int, int]]
"""One size of a sweep: images, boxes per image, image size, feature map."""
Times = dict[str, dict[int, float]]
"""Seconds of a call, by function and then by what grows."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One panel: what grows, what does not, the size at a value, and the ascending values."""

    axis: str
    fixed: str
    point: Callable[[int], Point]
    values: tuple[int, ...]


def _square(patches: int) -> Point:
    side = round(patches**0.5)
    return 1, 15, (1024, 1024), (side, side)


SWEEPS = (
    Sweep(
        "boxes per image",
        "16 images, 92×160 patches",
        lambda boxes: (16, boxes, IMAGE_SIZE, (92, 160)),
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    ),
    Sweep(
        "patches",
        "1 image, 15 boxes",
        _square,
        tuple(side**2 for side in (10, 18, 32, 56, 100, 178, 316, 562, 1000)),
    ),
    Sweep(
        "images per batch",
        "15 boxes per image, 23×40 patches",
        lambda images: (images, 15, IMAGE_SIZE, (23, 40)),
        (1, 2, 4, 8, 16, 32, 64, 128, 256),
    ),
)


def time_sweep(sweep: Sweep, rounds: int) -> Times:
    """Median seconds of a call; few rounds also thin out the points."""
    values = sweep.values if rounds >= _MANY_ROUNDS else sweep.values[::3] + sweep.values[-1:]
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    too_slow: set[str] = set()
    for value in dict.fromkeys(values):
        images, boxes, image_size, feature_map = sweep.point(value)
        arrays = street_boxes(images, boxes, image_size=image_size)
        for name, function in compared(arrays, image_size, feature_map).items():
            if name in _COMPARED and name not in too_slow and seconds_of(function) > _PATIENCE:
                too_slow.add(name)
            if name not in too_slow:
                calls[name, value] = function
    # Points take turns too: what slows the machine for a moment bends no line. A curve shows an
    # outlier by itself, so each point may have fewer turns.
    times: Times = {}
    for (name, value), seconds in interleaved(fitted(calls), max(3, rounds // 3)).items():
        times.setdefault(name, {})[value] = seconds
    return times
