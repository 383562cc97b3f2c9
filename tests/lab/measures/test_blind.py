"""What knowing where objects were is worth, on patches that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cass_lab.data.dataset import Dataset
from cass_lab.measures.blind import training_prior
from cass_lab.measures.keeping import KEEP_RATIOS
from tests.lab.support.drawn import boxes_alone


def images_of(*boxes: tuple[int, ...]) -> Dataset:
    """160 × 8 pixels each with one box: 20 patches of 8 pixels in a row."""
    return boxes_alone([[box] for box in boxes], (8, 160))


def test_flipped_boxes_count() -> None:
    # Trained on the left end alone: the right end is as good, and both go before all others.
    data = images_of((0, 0, 8, 8)), images_of((0, 0, 8, 8), (152, 0, 160, 8))
    measures = training_prior(data, 8)
    assert (measures.recall[:, :, KEEP_RATIOS.index(0.1)] == 1).all()
    # Ranks 0 and 1, whichever comes first.
    assert np.unique(measures.area) == pytest.approx([0.925, 0.975])


def test_ties_are_nobodys_favour() -> None:
    # Never on an object in training: 18 such patches share the ranks 2 to 19 at random, so half of
    # the image keeps 8 of them; row by row the third patch would always be kept and the last never.
    test = images_of(*[(16, 0, 24, 8)] * 150, *[(136, 0, 144, 8)] * 150)
    measures = training_prior((images_of((0, 0, 8, 8)), test), 8)
    half = measures.recall[:, :, KEEP_RATIOS.index(0.5)]
    for side in (half[:, :150], half[:, 150:]):
        assert side.mean() == pytest.approx(8 / 18, abs=0.05)  # 1500 draws: four deviations
    assert measures.area.mean() == pytest.approx(1 - (2 + 18 / 2) / 20, abs=0.02)
