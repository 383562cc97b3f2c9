"""Intervals against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from cass_lab.statistics import bootstrap_difference, seed_difference


def test_constant_difference_has_no_width() -> None:
    baseline = np.random.default_rng(0).random((3, 50))
    interval = bootstrap_difference(baseline + 0.25, baseline, np.repeat(np.arange(10), 5), 12)
    assert interval == pytest.approx((0.25, 0.25, 0.25))


def test_width_is_that_of_independent_images() -> None:
    # One object an image, one seed: the mean of n normal numbers, ± 1.96 / sqrt(n).
    values = np.random.default_rng(1).normal(size=(1, 900))
    interval = bootstrap_difference(values, np.zeros_like(values), np.arange(900), 900)
    half = 1.96 * values.std() / 30
    assert interval.difference == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)


def test_objects_of_an_image_are_drawn_together() -> None:
    # 40 images whose 25 objects agree are 40 numbers, not 1000.
    by_image = np.random.default_rng(2).normal(size=40)
    image_of = np.repeat(np.arange(40), 25)
    values = by_image[image_of][None]
    interval = bootstrap_difference(values, np.zeros_like(values), image_of, 40)
    half = 1.96 * by_image.std() / np.sqrt(40)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_seeds_are_drawn_too() -> None:
    # All images agree, the seeds do not: of two, a quarter of the draws has one of them alone.
    values = np.repeat([[0.0], [1.0]], 10, axis=1)
    interval = bootstrap_difference(values, np.zeros_like(values), np.arange(10), 10)
    assert interval == pytest.approx((0.5, 0.0, 1.0))


def test_pairing_takes_out_what_both_share() -> None:
    shared = 5 * np.random.default_rng(3).normal(size=(3, 100))
    interval = bootstrap_difference(shared + 0.1, shared, np.arange(100), 100)
    assert interval.low == pytest.approx(0.1)


def test_over_seeds() -> None:
    # Student's t of two differences, 1 and 3: 2 ± 12.706 * sqrt(2) / sqrt(2).
    interval = seed_difference(np.array([2.0, 5.0]), np.array([1.0, 2.0]))
    assert interval == pytest.approx((2, 2 - 12.706, 2 + 12.706), abs=1e-3)
    assert seed_difference(np.array([2.0]), np.array([1.0])) == (1, -np.inf, np.inf)
