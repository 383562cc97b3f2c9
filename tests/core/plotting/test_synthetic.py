"""The drawn street scenes."""

from __future__ import annotations

import numpy as np
import pytest

from cass_core import InvalidRequest
from cass_core.synthetic import LABELS, street_boxes, street_scene


@pytest.mark.parametrize("size", [(736, 1280), (16, 16), (96, 400), (300, 40)])
def test_boxes(size: tuple[int, int]) -> None:
    batch = street_boxes(20, 30, image_size=size, seed=5)
    assert len(batch) == 20
    for xyxy in batch:
        assert (xyxy.shape, xyxy.dtype) == ((30, 4), np.float32)
        assert (xyxy[:, :2] >= 0).all()
        assert (xyxy[:, 2:] <= (size[1], size[0])).all()
        assert (xyxy[:, 2:] > xyxy[:, :2]).all()


def test_many_are_small_and_tall() -> None:
    xyxy = np.concatenate(street_boxes(100, 30))
    w, h = (xyxy[:, 2:] - xyxy[:, :2]).T
    assert (np.sqrt(w * h) < 32).mean() > 0.5
    assert (h > 1.5 * w).mean() > 0.5


def test_seeds() -> None:
    first, again, other = street_boxes(1, 9), street_boxes(1, 9), street_boxes(1, 9, seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size", [(184, 320), (16, 16), (300, 40)])
def test_scene(size: tuple[int, int]) -> None:
    scene = street_scene(4, image_size=size, boxes=12)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert set(scene.labels) <= set(LABELS)
    assert len(scene.labels) == len(scene.boxes) == 12
    same = street_scene(4, image_size=size, boxes=12)
    np.testing.assert_array_equal(scene.image, same.image)
    np.testing.assert_array_equal(scene.boxes, street_boxes(1, 12, image_size=size, seed=4)[0])


def test_objects_are_drawn_in_their_boxes() -> None:
    for seed in range(6):
        scene = street_scene(seed, boxes=1)
        x1, y1, x2, y2 = scene.boxes[0]
        inside = scene.image[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        colours = {"cone": (58, 50, 46), "pedestrian": (222, 180, 150), "vehicle": (22, 22, 24)}
        assert (inside == colours[scene.labels[0]]).all(axis=2).any()


def test_no_objects() -> None:
    assert street_scene(0, image_size=(64, 64), boxes=0).boxes.shape == (0, 4)


def test_too_small() -> None:
    with pytest.raises(InvalidRequest, match=r"^image_size: must be at least \(16, 16\)"):
        street_boxes(1, 1, image_size=(15, 40))
