"""Means, spreads, and intervals of differences between runs on the same images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

REPLICATES = 2000

Floats = npt.NDArray[np.floating]


class Interval(NamedTuple):
    """A difference and the 95 % interval around it, infinite where it is unknown."""

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


def object_difference(
    values: Floats,
    baseline: Floats,
    image_of: npt.NDArray[np.int64],
    num_images: int,
    replicates: int = REPLICATES,
) -> Interval:
    """Paired difference of a mean over objects: other seeds and other images might give another.

    The variance over seeds and that over images are added. The former is that of a mean of few
    seeds, so the interval is Student's; a bootstrap over three seeds would be far too narrow. The
    latter is a bootstrap's of the mean over seeds: images are drawn with replacement with all
    their objects, for objects of one image are not independent.

    Args:
        values: ``[S, M]`` by seed and object.
        baseline: ``[S, M]`` of the same seeds and objects.
        image_of: ``[M]`` image of each object.
        num_images: images, those without objects included.
        replicates: number of draws, always the same ones.

    Returns:
        The difference of the means and the interval around it; infinite for one seed.

    Example:
        >>> object_difference(np.ones((2, 3)), np.zeros((2, 3)), np.array([0, 0, 1]), 2)
        Interval(difference=1.0, low=1.0, high=1.0)
    """
    difference = np.asarray(values, np.float64) - baseline
    by_object = difference.mean(0)
    sums = np.bincount(image_of, by_object, num_images)
    counts = np.bincount(image_of, minlength=num_images).astype(np.float64)
    rng = np.random.default_rng(0)
    images = rng.multinomial(num_images, np.full(num_images, 1 / num_images), replicates)
    objects = images @ counts
    draws = (images @ sums)[objects > 0] / objects[objects > 0]
    return _student(difference.mean(1), float(draws.std()))


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
    return _student(np.asarray(values, np.float64) - baseline, 0.0)


# Student's t, 97.5 %, by degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def _student(by_seed: npt.NDArray[np.float64], other_error: float) -> Interval:
    """The mean over seeds and its interval; ``other_error`` is a standard error beside theirs."""
    mean, spread = mean_and_spread(by_seed)
    freedom = len(by_seed) - 1
    if freedom == 0:
        return Interval(mean, -np.inf, np.inf)
    # Beyond the table by its expansion around the normal distribution's 1.96.
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.372 / freedom + 2.82 / freedom**2
    half = t * float(np.hypot(spread / np.sqrt(len(by_seed)), other_error))
    return Interval(mean, mean - half, mean + half)
