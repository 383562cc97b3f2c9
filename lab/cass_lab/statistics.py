"""Means, spreads, and intervals of differences between runs on the same images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

REPLICATES = 2000

Floats = npt.NDArray[np.floating]


class Interval(NamedTuple):
    """A difference and the 95 % interval around it."""

    difference: float
    low: float
    high: float


def mean_and_spread(values: Floats) -> tuple[float, float]:
    """Mean over seeds and their standard deviation (of a sample), NaN for one seed.

    Example:
        >>> mean_and_spread(np.array([1.0, 2.0, 3.0]))
        (2.0, 1.0)
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread


def bootstrap_difference(
    values: Floats,
    baseline: Floats,
    image_of: npt.NDArray[np.int64],
    num_images: int,
    replicates: int = REPLICATES,
) -> Interval:
    """Paired bootstrap of a mean over objects, over images and seeds.

    Images are drawn with replacement with all their objects, for objects of one image are not
    independent, and seeds with replacement too; values are paired by object and seed.

    Args:
        values: ``[S, M]`` by seed and object.
        baseline: ``[S, M]`` of the same seeds and objects.
        image_of: ``[M]`` image of each object.
        num_images: images, those without objects included.
        replicates: number of draws, always the same ones.

    Returns:
        The difference of the means and the 2.5 and 97.5 percentiles of its draws.

    Example:
        >>> bootstrap_difference(np.ones((2, 3)), np.zeros((2, 3)), np.array([0, 0, 1]), 2)
        Interval(difference=1.0, low=1.0, high=1.0)
    """
    difference = np.asarray(values, np.float64) - baseline
    seeds = len(difference)
    sums = np.stack([np.bincount(image_of, row, num_images) for row in difference])
    counts = np.bincount(image_of, minlength=num_images).astype(np.float64)
    rng = np.random.default_rng(0)
    images = rng.multinomial(num_images, np.full(num_images, 1 / num_images), replicates)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), replicates) / seeds
    objects = images @ counts
    totals = (drawn * (images @ sums.T)).sum(1)
    draws = totals[objects > 0] / objects[objects > 0]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))


# Student's t, 97.5 %, by degrees of freedom; beyond, the normal distribution is near enough.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def seed_difference(values: Floats, baseline: Floats) -> Interval:
    """Paired difference over seeds alone, for measures that are not means over objects.

    Args:
        values: ``[S]`` by seed.
        baseline: ``[S]`` of the same seeds.

    Returns:
        The mean difference and Student's t interval around it; infinite for one seed.

    Example:
        >>> interval = seed_difference(np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0]))
        >>> [round(value, 3) for value in interval]  # 2 ± 4.303 / sqrt(3)
        [2.0, -0.484, 4.484]
    """
    differences = np.asarray(values, np.float64) - baseline
    mean, spread = mean_and_spread(differences)
    freedom = len(differences) - 1
    if freedom == 0:
        return Interval(mean, -np.inf, np.inf)
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96
    half = t * spread / np.sqrt(len(differences))
    return Interval(mean, float(mean - half), float(mean + half))
