"""Warnings of input that can be used but is probably not what was meant."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, CassLoss, InputWarning, MaskLoss, compute_loss, generate_mask
from cass_core.plotting.figures import plot_mask
from cass_core.synthetic import street_boxes

SIZE, CELLS = (736, 1280), (23, 40)
WIDE = np.array([[600, 300, 1240, 700]], np.float32)
TWO = np.array([[600, 300, 1240, 700], [900, 400, 1200, 650]], np.float32)
FEW = np.array([[3, 2, 5, 6]], np.float32)


@pytest.fixture(autouse=True)
def _none_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cass_core.checks.warn._shown", set())
    monkeypatch.setattr("cass_core.checks.warn._calls", iter(range(10**6)))


def by_loss(boxes: Any, size: Any, cells: tuple[int, int]) -> Any:
    return CassLoss()(torch.zeros(len(boxes), *cells), boxes, size, cells)


def by_placed_loss(boxes: Any, size: Any, cells: tuple[int, int]) -> Any:
    placed = BoxBatch.from_list([torch.tensor(b) for b in boxes])
    return CassLoss()(torch.zeros(len(boxes), *cells), placed, size, cells)


def by_tensors(boxes: Any, size: Any, cells: tuple[int, int]) -> Any:
    return generate_mask([torch.tensor(b) for b in boxes], size, cells)


doors = pytest.mark.parametrize("door", [generate_mask, by_tensors, by_loss])
Door = Callable[[Any, Any, tuple[int, int]], Any]

WRONG = [
    (WIDE / [1280, 736, 1280, 736], SIZE, CELLS, "normalised"),
    ([[-0.01, 0.5, 1.0001, 0.99]], SIZE, CELLS, "normalised"),
    (WIDE, (1280, 736), CELLS, r"image_size \(1280, 736\) and feature_map \(23, 40\) differ"),
    (WIDE, SIZE, (40, 23), r"image_size \(736, 1280\) and feature_map \(40, 23\) differ"),
    (TWO, (1280, 736), (40, 23), r"given as \(W, H\)"),
    (TWO[:, [1, 0, 3, 2]], SIZE, CELLS, "boxes y1, x1, y2, x2"),
    (WIDE, (92, 160), (736, 1280), "many to a pixel: are the two swapped"),
    (WIDE, (184, 320), (736, 1280), "not beyond feature_map: are the two swapped"),
    ([[10, 5, 20, 15]], (23, 40), (736, 1280), r"image_size \(23, 40\) is in pixels"),
    (np.empty((0, 4)), (23, 40), (736, 1280), r"image_size \(23, 40\) is in pixels"),
]


@doors
@pytest.mark.parametrize(("box", "size", "cells", "text"), WRONG)
def test_what_does_not_look_right(
    door: Door, box: Any, size: Any, cells: tuple[int, int], text: str
) -> None:
    boxes = [np.asarray(box, np.float32)]
    with pytest.warns(InputWarning, match=text) as caught:
        door(boxes, size, cells)
    assert caught[0].filename == __file__  # the line to change
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        door(boxes, size, cells)  # once


def test_boxes_that_are_placed_already() -> None:
    with pytest.warns(InputWarning, match="normalised"):
        by_placed_loss([WIDE / 1280], SIZE, CELLS)


def test_one_image_of_several() -> None:
    sizes = [SIZE, (1280, 736), SIZE]
    with pytest.warns(InputWarning, match=r"image_size \(1280, 736\)"):
        generate_mask([WIDE, None, WIDE], sizes, [CELLS, (12, 20)])


def test_boxes_of_one_image_that_are_normalised() -> None:
    mixed = [None, WIDE, WIDE / 1280, np.empty((0, 4), np.float32)]
    with pytest.warns(InputWarning, match=r"of boxes\[2\] lie within \[0, 1\]"):
        generate_mask(mixed, SIZE, CELLS)


def test_boxes_of_some_images_that_are_normalised() -> None:
    """Where they are told from boxes of small images, whose sizes are their own."""
    sizes = [(16, 16), SIZE, SIZE]
    boxes = [FEW / 32, WIDE / 1280, WIDE / 1281]
    with pytest.warns(InputWarning, match=r"of boxes\[1\] and 1 more images lie"):
        generate_mask(boxes, sizes, (1, 1))


def test_swapped_axes_of_images_that_differ_in_size() -> None:
    sizes = [(1280, 736), (2560, 1472)]
    with pytest.warns(InputWarning, match=r"given as \(W, H\)"):
        generate_mask([WIDE, 2 * WIDE], sizes, (40, 23))


def test_figures() -> None:
    with pytest.warns(InputWarning, match="normalised"):
        plot_mask(None, WIDE / 1280, np.zeros(CELLS), image_size=SIZE)
    with pytest.warns(InputWarning, match=r"feature_map \(40, 23\) differ"):
        plot_mask(None, WIDE, np.zeros((40, 23)), image_size=SIZE)
    with pytest.warns(InputWarning, match="mask is uint8"):
        plot_mask(None, WIDE, np.ones(CELLS, np.uint8), image_size=SIZE)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_bytes_that_are_no_255ths(kind: Any) -> None:
    """A mask of 0 and 1 as uint8 is one of at most 1 / 255."""
    logits, ones = kind([[0.0, 0.0]]), kind([[0, 1]])
    ones = ones.astype(np.uint8) if isinstance(ones, np.ndarray) else ones.byte()
    with pytest.warns(InputWarning, match="target is uint8"):
        compute_loss(logits, ones)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_loss(logits, ones)
        compute_loss(logits, ones * 255)


def test_a_mask_of_bytes_that_are_no_255ths() -> None:
    with pytest.warns(InputWarning, match="mask is uint8"):
        MaskLoss()(torch.zeros(1, 2), torch.tensor([[0, 1]], dtype=torch.uint8))


RIGHT = [
    (WIDE, SIZE, CELLS),
    (WIDE, SIZE, (92, 160)),
    (WIDE, SIZE, (1, 1)),
    (WIDE, (750, 1333), (24, 42)),  # rounded up at a stride of 32: 23.4 and 41.7
    (WIDE, (750, 1333), (23, 41)),  # and down
    (WIDE, (768, 1312), (24, 41)),  # padded
    (np.array([[-20, -5, 1300, 740]]), SIZE, CELLS),  # a bit beyond the image
    (np.array([[700, 5, 760, 300]]), (1280, 736), (40, 23)),  # of an image that is high
    (np.zeros((3, 4)), SIZE, CELLS),  # padding
    (np.array([[-50, -40, 0.5, 0.9]]), SIZE, CELLS),  # with hardly a pixel in the image
    (np.empty((0, 4)), SIZE, CELLS),
    (FEW, (8, 8), (32, 32)),  # a map finer than its image
    (FEW / 8, (8, 8), (8, 8)),  # below a pixel, of few
    (FEW, (8, 12), (4, 4)),
    ([[0, 0, 1, 1]], (640, 640), (20, 20)),  # a pixel
    ([[300, 100, 500, 200]], (640, 360), (20, 12)),  # cut by its crop
    ([[300, 100, 500, 200], *[[10, 20, 90, 80]] * 8, [350, 9, 400, 90]], (640, 360), (20, 12)),
]


@doors
@pytest.mark.parametrize(("box", "size", "cells"), RIGHT)
def test_nothing_is_said_of_the_rest(
    door: Door, box: Any, size: Any, cells: tuple[int, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        door([np.asarray(box, np.float32)], size, cells)
        plot_mask(None, box, np.zeros(cells), image_size=size)


def test_later_calls_are_looked_at_too() -> None:
    """Not each of them, for the cost: a loader that is wrong is wrong in each batch."""
    good = street_boxes(1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            generate_mask(good, SIZE, CELLS)
    with pytest.warns(InputWarning, match="normalised"):
        [generate_mask([WIDE / 1280], SIZE, CELLS) for _ in range(64)]


def test_calls_that_take_turns_are_all_looked_at() -> None:
    logits, good = torch.zeros(1, 2), torch.tensor([[0, 255]], dtype=torch.uint8)

    def step(boxes: Any, mask: torch.Tensor) -> None:
        generate_mask(boxes, SIZE, CELLS)
        MaskLoss()(logits, mask)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            step([WIDE], good)
    with pytest.warns(InputWarning) as caught:
        [step([WIDE / 1280], good // 255) for _ in range(64)]
    assert {"all boxes", "mask is u"} == {str(warning.message)[:9] for warning in caught}
