"""Recall, area and calibration against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cass_lab.measures.keeping import (
    KEEP_RATIOS,
    ObjectMeasures,
    calibration_error,
    object_measures,
    on_object,
)

GRID = (4, 5)  # 20 patches: the keep ratios are 1, 2, 4, 6 and 10 of them


def scores_of(ranks: dict[tuple[int, int], int]) -> np.ndarray:
    """Scores whose patches have these ranks; the others follow in row-major order."""
    free = (rank for rank in range(20) if rank not in ranks.values())
    scores = np.zeros(GRID)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            place = (row, column)
            scores[place] = -ranks[place] if place in ranks else -next(free)
    return scores


def measured(scores: np.ndarray, ranges: np.ndarray, offsets: list[int]) -> ObjectMeasures:
    """Of a predictor of one level."""
    only = np.zeros(len(ranges), np.int64)
    return object_measures([scores], [ranges], np.array(offsets), only)


def test_recall_and_area_of_objects() -> None:
    assert KEEP_RATIOS == (0.05, 0.1, 0.2, 0.3, 0.5)
    scores = scores_of({(1, 1): 0, (1, 2): 3, (3, 4): 19})
    ranges = np.array([[1, 2, 1, 3], [3, 4, 4, 5], [1, 1, 0, 1]])
    found = measured(scores[None], ranges, [0, 3])
    assert found.recall[0].tolist() == [0.5, 0.5, 1, 1, 1]
    assert found.recall[1].tolist() == [0, 0, 0, 0, 0]
    assert np.isnan(found.recall[2]).all()
    # 1 - (rank + 1/2) / 20, averaged over the object's patches.
    assert found.area[:2] == pytest.approx([1 - (0.5 + 3.5) / 2 / 20, 0.5 / 20])
    assert np.isnan(found.area[2])


def test_area_is_that_under_the_curve() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=GRID)
    order = np.argsort(-scores.reshape(-1))
    recall = [np.isin(np.array([6, 7, 11, 12]), order[:k]).mean() for k in range(21)]
    found = measured(scores[None], np.array([[1, 3, 1, 3]]), [0, 1])
    assert found.area[0] == pytest.approx(np.trapezoid(recall, dx=1 / 20))


def test_equal_scores_are_kept_in_order() -> None:
    found = measured(np.zeros((1, *GRID)), np.array([[0, 1, 0, 2], [0, 1, 2, 3]]), [0, 2])
    assert found.recall[:, :3].tolist() == [[0.5, 1, 1], [0, 0, 1]]


def test_images_have_their_own_order() -> None:
    scores = np.stack([scores_of({(0, 0): 0}), np.zeros(GRID), scores_of({(0, 0): 19})])
    ranges = np.array([[0, 1, 0, 1], [0, 1, 0, 1]])
    found = measured(scores, ranges, [0, 1, 1, 2])
    assert found.recall[:, -1].tolist() == [1, 0]


def test_levels_compete() -> None:
    # 16 + 4 patches, of which 1, 2, 4, 6 and 10 are kept: a coarse one, a fine, a coarse, a fine,
    # the other two coarse ones, and of the equal fine ones the first four.
    fine, coarse = np.full((1, 4, 4), -9.0), np.full((1, 2, 2), -8.0)
    coarse[0, 0, 0], fine[0, 1, 1], coarse[0, 1, 1], fine[0, 0, 0] = 4, 3, 2, 1
    top_left = np.array([[0, 2, 0, 2]] * 2), np.array([[0, 1, 0, 1]] * 2)
    found = object_measures([fine, coarse], top_left, np.array([0, 2]), np.array([0, 1]))
    assert found.recall.tolist() == [[0, 0.25, 0.5, 0.5, 1], [1] * 5]
    assert found.area[1] == pytest.approx(1 - 0.5 / 20)


def test_on_object() -> None:
    covered = on_object(np.array([[0, 2, 1, 3]]), np.array([0, 0, 1]), (3, 3))
    assert covered.astype(int).tolist() == [
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 1], [0, 1, 1], [0, 0, 0]],
    ]


def test_calibration_error() -> None:
    def logit(p: float) -> float:
        return float(np.log(p / (1 - p)))

    right = np.full(10, logit(0.2)), np.arange(10) < 2
    assert calibration_error(*right) == pytest.approx(0, abs=1e-12)
    # Half say 0.9 and are right half of the time, half say 0.1 and never are: (0.4 + 0.1) / 2.
    said = np.array([logit(0.9)] * 4 + [logit(0.1)] * 4)
    assert calibration_error(said, np.array([1, 1, 0, 0, 0, 0, 0, 0], bool)) == pytest.approx(0.25)
    assert calibration_error(np.array([800.0, -800.0]), np.array([True, False])) == 0
