"""AP of crafted detections whose value follows from COCO's definition."""

from __future__ import annotations

import numpy as np
import pytest

from cass_lab.data.dataset import Dataset
from cass_lab.measures.ap import Detections, average_precision
from tests.lab.support.drawn import boxes_alone

SQUARE, TALL, LARGE = (10, 10, 30, 30), (50, 10, 60, 50), (0, 60, 80, 140)
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def truth(*images: list[tuple[int, ...]], labels: list[int] | None = None) -> Dataset:
    return boxes_alone(images, (160, 160), labels, ("a", "b"))


def found(
    *boxes: tuple[float, ...], scores: list[float], labels: list[int] | None = None
) -> Detections:
    return Detections(
        np.array(boxes, np.float32),
        np.array(scores, np.float32),
        np.array(labels or [0] * len(boxes)),
    )


def test_everything_found() -> None:
    values = average_precision(
        [found(SQUARE, TALL, LARGE, scores=[0.9, 0.8, 0.7])], truth([SQUARE, TALL, LARGE])
    )
    assert values == pytest.approx({"AP": 1, "AP50": 1, "AP_small": 1, "AP_elongated": 1})


def test_half_of_the_objects() -> None:
    # Precision 1 up to recall 1/2: 51 of COCO's 101 recall levels.
    values = average_precision([found(SQUARE, scores=[0.9]), NOTHING], truth([SQUARE], [LARGE]))
    assert values["AP"] == pytest.approx(51 / 101)
    assert values["AP_small"] == pytest.approx(1)  # the large one does not count
    assert np.isnan(values["AP_elongated"])  # there is none


def test_a_better_scored_mistake_costs_half() -> None:
    values = average_precision(
        [found((100, 100, 120, 120), SQUARE, scores=[0.9, 0.5])], truth([SQUARE])
    )
    assert values["AP"] == pytest.approx(0.5)


def test_loose_boxes_count_at_low_thresholds_alone() -> None:
    # Intersection over union 15 * 20 / 400 = 0.75: six of the ten thresholds.
    values = average_precision([found((10, 10, 25, 30), scores=[0.9])], truth([SQUARE]))
    assert values["AP"] == pytest.approx(0.6)
    assert values["AP50"] == pytest.approx(1)


def test_elongated_objects_alone() -> None:
    # The square's miss does not count, nor does a square false alarm; an elongated one does.
    target = truth([SQUARE, TALL])
    square_alarm = found(TALL, (100, 100, 120, 120), scores=[0.5, 0.9])
    tall_alarm = found(TALL, (100, 100, 110, 140), scores=[0.5, 0.9])
    assert average_precision([square_alarm], target)["AP_elongated"] == pytest.approx(1)
    assert average_precision([tall_alarm], target)["AP_elongated"] == pytest.approx(0.5)


def test_elongated_is_more_than_three_to_two() -> None:
    # As in the groups of recall, where 2 : 3 is square.
    values = average_precision([found((10, 10, 30, 40), scores=[0.9])], truth([(10, 10, 30, 40)]))
    assert values["AP"] == pytest.approx(1)
    assert np.isnan(values["AP_elongated"])
    longer = (10, 10, 30, 41)
    values = average_precision([found(longer, scores=[0.9])], truth([longer]))
    assert values["AP_elongated"] == pytest.approx(1)


def test_classes_are_averaged() -> None:
    target = truth([SQUARE, TALL], labels=[0, 1])
    right_and_wrong = found(SQUARE, TALL, scores=[0.9, 0.8], labels=[0, 0])
    assert average_precision([right_and_wrong], target)["AP"] == pytest.approx(0.5)


def test_nothing_found() -> None:
    assert average_precision([NOTHING], truth([SQUARE]))["AP"] == 0
