"""Which boxes have no patch: by hand, and by the reference's masks of each box alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cass_core import MaskSpec, boxes_without_patch
from tests.core.masks.test_real_boxes import FILES, load
from tests.core.support import reference
from tests.core.support.strategies import Scene, scenes

# Of 64 x 64 pixels and 8 x 8 cells: box, patch size, least size, and whether it has no patch.
BY_HAND: list[tuple[list[float], int, float, bool]] = [
    ([8, 8, 24, 24], 1, 1, False),
    ([17, 0, 47, 31], 4, 1, True),  # between the centres 16 and 48
    ([17, 0, 48, 31], 4, 1, False),  # closed: 48 is in it
    ([16, 0, 47, 31], 4, 1, False),  # and 16 in this
    ([0, 17, 31, 47], 4, 1, True),
    ([0, 0, 3, 3], 1, 0.5, True),  # grows to [-0.5, 3.5], short of the centre 4
    ([0, 0, 3, 3], 1, 1, False),  # grows to [-2.5, 5.5]
    ([5, 5, 7, 7], 1, 0, True),
    ([-9, 0, 3, 16], 1, 1, True),  # three pixels of it are inside
    ([-9, 0, 4, 16], 1, 1, False),
    ([64, 0, 99, 16], 1, 1, True),
    ([69, 64, 99, 64], 5, 0, True),  # the centre 60 is the second and last of five cells
    ([-1e30, -1e30, 1e30, 1e30], 8, 1, False),
]


@pytest.mark.parametrize(("box", "patch_size", "min_size", "expected"), BY_HAND)
def test_by_hand(box: list[float], patch_size: int, min_size: float, expected: bool) -> None:
    spec = MaskSpec(patch_size=patch_size, min_size=min_size)
    assert boxes_without_patch([[box]], (64, 64), (8, 8), spec).tolist() == [expected]


@given(scenes(), st.integers(1, 5), st.sampled_from([0.0, 1.0, 2.5]))
def test_boxes_whose_mask_alone_has_nothing(scene: Scene, patch_size: int, min_size: float) -> None:
    """Without context a box marks the patches that have their centres in it, and no others."""
    options = {"patch_size": patch_size, "min_size": min_size, "expansion_ratio": 0.0}
    spec = MaskSpec(patch_size=patch_size, min_size=min_size)
    found = boxes_without_patch(scene.boxes, scene.sizes, scene.feature_map, spec)
    batch = zip(scene.boxes, scene.sizes, strict=True)
    alone = [(box, size) for boxes, size in batch for box in boxes]
    if not alone:
        assert found.shape == (0,)
        return
    answer = reference.masks(
        [[b] for b, _ in alone], [s for _, s in alone], scene.feature_map, options
    )
    clear = answer.safe.all(axis=(1, 2))
    np.testing.assert_array_equal(found[clear], (answer.owner < 0).all(axis=(1, 2))[clear])


@pytest.mark.parametrize("name", FILES)
def test_real_boxes(shared: Path, name: str) -> None:
    """With p = 4 most are lost, with p = 1 none."""
    images = load(shared / "data" / name, 300)
    sizes, boxes = [size for size, _ in images], [xyxy for _, xyxy in images]
    levels = [(92, 160), (23, 40)]
    assert not np.concatenate(
        boxes_without_patch(boxes, sizes, levels, MaskSpec(patch_size=1))
    ).any()
    _, coarse = boxes_without_patch(boxes, sizes, levels, MaskSpec(patch_size=4))
    assert 0.4 < coarse.mean() < 0.95  # the formulas' page says 55 to 85 %


def test_tensors_and_images_without_boxes() -> None:
    box = torch.tensor([[8.0, 8, 24, 24]])
    found = boxes_without_patch([None, box], (32, 32), (4, 4), MaskSpec(patch_size=1))
    assert found.tolist() == [False]
    assert boxes_without_patch([], (32, 32), [(4, 4)])[0].shape == (0,)
