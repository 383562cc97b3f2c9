"""Intervals against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from cass_lab.measures.statistics import object_difference, seed_difference


def test_constant_difference_has_no_width() -> None:
    baseline = np.random.default_rng(0).random((3, 50))
    interval = object_difference(baseline + 0.25, baseline, np.repeat(np.arange(10), 5), 12)
    assert interval == pytest.approx((0.25, 0.25, 0.25))


def test_width_is_that_of_independent_images() -> None:
    # One object an image, two seeds that agree: the mean of n normal numbers, ± 12.706 / sqrt(n).
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 900)), 2, axis=0)
    interval = object_difference(values, np.zeros_like(values), np.arange(900), 900)
    half = 12.706 * values.std() / 30
    assert interval.difference == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)


def test_objects_of_an_image_are_drawn_together() -> None:
    # 40 images whose 25 objects agree are 40 numbers, not 1000.
    by_image = np.random.default_rng(2).normal(size=40)
    image_of = np.repeat(np.arange(40), 25)
    values = np.stack([by_image[image_of]] * 2)
    interval = object_difference(values, np.zeros_like(values), image_of, 40)
    half = 12.706 * by_image.std() / np.sqrt(40)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_seeds_count_too() -> None:
    # All images agree, the seeds do not: Student's t of 0 and 1, 0.5 ± 12.706 * 0.5.
    values = np.repeat([[0.0], [1.0]], 10, axis=1)
    interval = object_difference(values, np.zeros_like(values), np.arange(10), 10)
    assert interval == pytest.approx((0.5, 0.5 - 6.353, 0.5 + 6.353))
    one = object_difference(values[1:], np.zeros((1, 10)), np.arange(10), 10)
    assert one == (1, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("seeds", "over_seeds", "over_images", "most"),
    [(3, 1.0, 0.0, 0.98), (2, 1.0, 0.0, 0.98), (3, 1.0, 3.0, 1.0), (12, 1.0, 3.0, 1.0)],
)
def test_the_true_difference_is_inside(
    seeds: int, over_seeds: float, over_images: float, most: float
) -> None:
    # 500 ablations whose true difference is 0.3: of 95 % inside, ± 2.2 points is chance. Of 12
    # seeds, a part of both: the mean over 40 images is about as uncertain as that over 4 seeds.
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(500):
        image = over_images * rng.normal(size=40)
        differences = 0.3 + over_seeds * rng.normal(size=(seeds, 1)) + image
        interval = object_difference(differences, np.zeros((seeds, 40)), np.arange(40), 40, 200)
        inside += interval.low <= 0.3 <= interval.high
    assert 0.92 <= inside / 500 <= most


def test_pairing_takes_out_what_both_share() -> None:
    shared = 5 * np.random.default_rng(3).normal(size=(3, 100))
    interval = object_difference(shared + 0.1, shared, np.arange(100), 100)
    assert interval.low == pytest.approx(0.1)


def test_over_seeds() -> None:
    # Student's t of two differences, 1 and 3: 2 ± 12.706 * sqrt(2) / sqrt(2).
    interval = seed_difference(np.array([2.0, 5.0]), np.array([1.0, 2.0]))
    assert interval == pytest.approx((2, 2 - 12.706, 2 + 12.706), abs=1e-3)
    assert seed_difference(np.array([2.0]), np.array([1.0])) == (1, -np.inf, np.inf)
    # 2.086 for 20 degrees of freedom, in any table.
    values = np.arange(21.0)
    interval = seed_difference(values, np.zeros(21))
    assert interval.high == pytest.approx(10 + 2.086 * values.std(ddof=1) / np.sqrt(21), abs=1e-3)
