"""What scores are worth: which objects keep their patches, and whether scores are probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

KEEP_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
_BINS = 15

Floats = npt.NDArray[np.floating]


class ObjectMeasures(NamedTuple):
    """Of each object.

    Attributes:
        recall: ``[M, K]`` share of its patches among the kept ones, at each of `KEEP_RATIOS`.
        area: ``[M]`` area under its curve of recall against the share of patches kept, in [0, 1].
    """

    recall: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]


def num_kept(patches: int, keep: float) -> int:
    """Patches that a keep ratio leaves, at least one.

    Example:
        >>> num_kept(100, 0.3), num_kept(7, 0.05)
        (30, 1)
    """
    return max(1, round(patches * keep))


def ranks_of(logits: Floats) -> npt.NDArray[np.int64]:
    """The place of each patch in its image, 0 for the largest; the first of equals goes first.

    Example:
        >>> ranks_of(np.array([[0.5, 2.0], [2.0, -1.0]])).tolist()
        [[2, 0], [1, 3]]
    """
    ranks = np.empty(logits.size, np.int64)
    ranks[np.argsort(-logits.reshape(-1), kind="stable")] = np.arange(logits.size)
    return ranks.reshape(logits.shape)


def object_measures(
    levels: Sequence[Floats],
    ranges: Sequence[npt.NDArray[np.int64]],
    offsets: npt.NDArray[np.int64],
    level_of: npt.NDArray[np.int64],
) -> ObjectMeasures:
    """Recall of each object's patches among those with the largest scores of its image.

    Args:
        levels: scores ``[N, n_y, n_x]`` of each level; the patches of all levels compete. Of equal
            ones the first is kept first, in row-major order and level by level.
        ranges: of each level, ``[M, 4]`` as of `cass_lab.data.objects.patch_ranges`.
        offsets: ``[N + 1]``: image i has objects ``offsets[i]`` to ``offsets[i + 1] - 1``.
        level_of: ``[M]`` the level whose patches count for an object.

    Returns:
        NaN for an object without any patch.

    Example:
        >>> scores = np.arange(20.0).reshape(1, 4, 5)  # the lower right patch is kept first
        >>> low_right = np.array([[2, 4, 4, 5]])
        >>> found = object_measures([scores], [low_right], np.array([0, 1]), np.array([0]))
        >>> found.recall.tolist()  # of 1, 2, 4, 6 and 10 patches
        [[0.5, 0.5, 0.5, 1.0, 1.0]]
        >>> round(float(found.area[0]), 3)  # ranks 0 and 5: 1 - (0.5 + 5.5) / 2 / 20
        0.85
    """
    grids = [scores.shape[1:] for scores in levels]
    ends = np.cumsum([height * width for height, width in grids])
    patches = int(ends[-1])
    counts = [num_kept(patches, keep) for keep in KEEP_RATIOS]
    # Any patch of rank r is kept from r + 1 patches on; trapezia between whole numbers of patches.
    under_curve = 1.0 - (np.arange(patches) + 0.5) / patches
    recall = np.full((len(level_of), len(counts)), np.nan, np.float32)
    area = np.full(len(level_of), np.nan, np.float32)
    layers = np.empty((len(counts) + 1, patches))
    for i in range(len(offsets) - 1):
        if offsets[i] == offsets[i + 1]:
            continue
        rank = ranks_of(np.concatenate([scores[i].reshape(-1) for scores in levels]))
        for layer, count in zip(layers, counts, strict=False):
            layer[:] = rank < count
        layers[-1] = under_curve[rank]
        for level, (grid, end) in enumerate(zip(grids, ends, strict=True)):
            mine = offsets[i] + np.flatnonzero(level_of[offsets[i] : offsets[i + 1]] == level)
            of_level = layers[:, end - grid[0] * grid[1] : end].reshape(-1, *grid)
            means = _range_means(of_level, ranges[level][mine])
            recall[mine], area[mine] = means[:-1].T, means[-1]
    return ObjectMeasures(recall, area)


def _range_means(layers: Floats, ranges: npt.NDArray[np.int64]) -> Floats:
    """Means of ``[L, h, w]`` over rectangles: ``[L, M]``, NaN for empty ones."""
    summed = np.zeros((len(layers), layers.shape[1] + 1, layers.shape[2] + 1))
    np.cumsum(np.cumsum(layers, axis=1), axis=2, out=summed[:, 1:, 1:])
    r0, r1, c0, c1 = ranges.T
    totals = summed[:, r1, c1] - summed[:, r0, c1] - summed[:, r1, c0] + summed[:, r0, c0]
    count = ((r1 - r0) * (c1 - c0)).astype(np.float64)
    return totals / np.where(count == 0, np.nan, count)


def on_object(
    ranges: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], grid: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Which patches lie on any object, ``[N, n_y, n_x]``."""
    covered = np.zeros((len(offsets) - 1, *grid), np.bool_)
    for i in range(len(offsets) - 1):
        for r0, r1, c0, c1 in ranges[offsets[i] : offsets[i + 1]]:
            covered[i, r0:r1, c0:c1] = True
    return covered


def calibration_error(logits: Floats, covered: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error of sigmoid(logit) as the chance that a patch is on an object.

    The mean over patches of the difference, within each of 15 equal bins of the probability,
    between mean probability and share of patches on objects (Guo et al. 2017).

    Args:
        logits: any shape.
        covered: of the same shape.

    Example:
        >>> calibration_error(np.zeros(4), np.array([True, False, False, False]))
        0.25
    """
    p = 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits, np.float64).reshape(-1))  # never overflows
    bins = np.minimum((p * _BINS).astype(np.int64), _BINS - 1)
    said = np.bincount(bins, p, _BINS)
    true = np.bincount(bins, covered.reshape(-1).astype(np.float64), _BINS)
    return float(np.abs(said - true).sum() / p.size)
