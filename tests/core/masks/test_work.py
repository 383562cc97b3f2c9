"""How much work boxes are: by hand, and at least what the reference's masks of each alone have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass_core import MaskSpec
from cass_core.inputs import MaskInputs
from cass_core.work import most_work, work
from tests.core.support import reference
from tests.core.support.strategies import Scene, scenes


def work_of(boxes: object, size: object, maps: object, spec: MaskSpec) -> list[float]:
    inputs = MaskInputs.check(boxes, size, maps, spec, "float32", False)  # type: ignore[arg-type]
    return work(inputs).tolist()


# Of 64 x 64 pixels; without context: columns and rows that are reached at most.
@pytest.mark.parametrize(
    ("box", "options", "columns", "rows"),
    [
        ([0, 0, 64, 64], {}, 8, 8),
        ([-1e30, -1e30, 1e30, 1e30], {}, 8, 8),
        ([8, 8, 24, 12], {}, 3, 2),  # closed: 2 cells may touch three centres; half grows to one
        ([8, 8, 24, 24], {"expansion_ratio": 0.5}, 5, 5),  # 4 cells
        ([0, 0, 64, 64], {"patch_size": 4}, 2, 2),
        ([0, 0, 64, 64], {"patch_size": 5}, 2, 2),  # of 8 cells
        ([0, 0, 64, 64], {"patch_size": 9}, 1, 1),  # of a patch as large as the map
        ([20, 20, 20, 20], {"min_size": 0}, 1, 1),
        ([20, 20, 20, 20], {"min_size": 3}, 4, 4),
        ([-90, 0, -80, 8], {}, 1, 2),
    ],
)
def test_by_hand(box: list[float], options: dict[str, float], columns: int, rows: int) -> None:
    spec = MaskSpec(**{"patch_size": 1, "expansion_ratio": 0, **options})
    expected = columns * rows + 8 * (columns + rows)
    assert work_of([[box]], (64, 64), (8, 8), spec) == [expected]


def test_maps_are_added_up_and_images_have_their_sizes() -> None:
    spec = MaskSpec(patch_size=1, expansion_ratio=0)
    boxes = [[[0, 0, 16, 16]], [], [[0, 0, 16, 16]] * 2]
    sizes = [(16, 16), (5, 5), (32, 64)]
    # Of 8 x 8 and 2 x 4: all of it; a half of the rows and a quarter of the columns, and one more.
    expected = [(64 + 128) + (8 + 48)] + 2 * [(5 * 3 + 8 * 8) + (2 * 2 + 8 * 4)]
    assert work_of(boxes, sizes, [(8, 8), (2, 4)], spec) == expected
    inputs = MaskInputs.check(boxes, sizes, [(8, 8), (2, 4)], spec, "float32", False)
    assert most_work(inputs) == expected[0]
    assert work_of([], (8, 8), (8, 8), spec) == []


def test_a_level_has_the_boxes_of_its_range_alone() -> None:
    """The longer side counts: over 16 pixels for the second map."""
    spec = MaskSpec(patch_size=1, expansion_ratio=0, level_ranges=((0, 16), (16, math.inf)))
    boxes = [[[0, 0, 16, 1], [0, 0, 16, 16], [0, 0, 1, 17], [0, 0, 32, 32]]]
    # 3 x 1 and 3 x 3 of 8 x 8, 1 x 2 and 3 x 3 of 4 x 4: half of a short side is outside.
    expected = [3 + 8 * 4, 9 + 8 * 6, 2 + 8 * 3, 9 + 8 * 6]
    assert work_of(boxes, (64, 64), [(8, 8), (4, 4)], spec) == expected


@given(scenes(), st.integers(1, 5), st.sampled_from([0.0, 1.0, 2.5]), st.booleans())
def test_no_box_reaches_more(
    scene: Scene, patch_size: int, min_size: float, anisotropic: bool
) -> None:
    options = {
        "patch_size": patch_size,
        "min_size": min_size,
        "use_anisotropic_gaussian": anisotropic,
    }
    spec = MaskSpec(**options)
    batch = zip(scene.boxes, scene.sizes, strict=True)
    alone = [(box, size) for boxes, size in batch for box in boxes]
    found = np.array(work_of(scene.boxes, scene.sizes, scene.feature_map, spec))
    if not alone:
        assert found.shape == (0,)
        return
    answer = reference.masks(
        [[b] for b, _ in alone], [s for _, s in alone], scene.feature_map, options
    )
    reached = answer.owner >= 0
    rows, columns = reached.any(axis=2).sum(axis=1), reached.any(axis=1).sum(axis=1)
    assert (rows * columns + 8 * (rows + columns) <= found).all()
    inputs = MaskInputs.check(scene.boxes, scene.sizes, scene.feature_map, spec, "float32", False)
    assert (found <= most_work(inputs)).all()
