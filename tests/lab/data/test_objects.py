"""Which patches an object has, and which groups it is in."""

from __future__ import annotations

import numpy as np
import pytest

from cass_core import MaskSpec, generate_mask
from cass_core.synthetic import street_boxes
from cass_lab.data.objects import groups, object_levels, patch_ranges, shape_groups, size_groups


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # Patches of 8 pixels, centres at 4, 12, 20, 28; rows, then columns, ends excluded.
        ((0, 0, 32, 32), (0, 4, 0, 4)),
        ((4, 5, 12, 12), (1, 2, 0, 2)),  # centres on the edge are inside
        ((17, 1, 18, 2), (0, 1, 2, 3)),  # grown to a patch around its centre
        ((0, 0, 0, 0), (0, 1, 0, 1)),  # the same in the corner
        ((30, 30, 40, 40), (4, 4, 4, 4)),  # cut, without a centre: no patch
        ((40, 8, 60, 16), (1, 2, 4, 4)),  # beyond the border
    ],
)
def test_patches(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert patch_ranges(np.array([box]), (32, 32), (4, 4)).tolist() == [list(expected)]


def test_patches_are_the_core_of_the_target() -> None:
    for boxes in street_boxes(20, 5, image_size=(96, 160), seed=3):
        for box in boxes:
            r0, r1, c0, c1 = patch_ranges(box[None], (96, 160), (12, 20))[0]
            spec = MaskSpec(patch_size=1, expansion_ratio=0)
            core = generate_mask([box[None]], (96, 160), (12, 20), spec)[0]
            assert core[r0:r1, c0:c1].all()
            assert core.sum() == (r1 - r0) * (c1 - c0)


def test_levels_are_those_of_fcos() -> None:
    sides = [(8, 8), (64, 9), (65, 60), (9, 128), (129, 140), (400, 3)]
    boxes = np.array([[0, 0, width, height] for width, height in sides], float)
    ranges = [patch_ranges(boxes, (256, 512), (256 // s, 512 // s)) for s in (8, 16, 32)]
    assert object_levels(boxes, ranges).tolist() == [0, 0, 1, 1, 2, 2]
    assert object_levels(boxes, ranges[:2]).tolist() == [0, 0, 1, 1, 1, 1]
    # Beyond the border there is no patch of 16 or 32 pixels, but one of 8.
    thin = np.array([[0, 251, 200, 275]], float)
    ranges = [patch_ranges(thin, (256, 512), (256 // s, 512 // s)) for s in (8, 16, 32)]
    assert [bool((r[:, 1] > r[:, 0]).all()) for r in ranges] == [True, False, False]
    assert object_levels(thin, ranges).tolist() == [0]


def test_groups() -> None:
    boxes = np.array([[0, 0, 15, 15], [0, 0, 16, 16], [0, 0, 10, 40], [0, 0, 200, 100]], float)
    assert size_groups(boxes).tolist() == [0, 1, 1, 3]
    assert shape_groups(boxes).tolist() == [2, 2, 0, 1]
    found = {
        name: members.tolist()
        for name, members in groups(boxes, np.array([0, 0, 1, 0]), ("a", "b", "c"))
    }
    assert found["all"] == [True] * 4
    assert found["class b"] == [False, False, True, False]
    assert "class c" not in found
    assert "32–96 px" not in found


def test_a_class_takes_no_groups_place() -> None:
    boxes = np.array([[0, 0, 15, 15], [0, 0, 10, 40]], float)
    found = {
        name: members.tolist()
        for name, members in groups(boxes, np.array([0, 1]), ("all", "square"))
    }
    assert (found["all"], found["class all"]) == ([True, True], [True, False])
    assert (found["square"], found["class square"]) == ([True, False], [False, True])
