"""The compiled count of boxes without a patch: by hand, and beside NumPy's that says which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass_core import BoxBatch, MaskSpec, boxes_without_patch
from cass_core.arrays import read_only
from cass_core.cpu.coverage import count_without_patch, counter
from cass_core.inputs import MaskInputs
from tests.core.masks.test_coverage import BY_HAND
from tests.core.support.strategies import Scene, scenes


def count(batch: BoxBatch, sizes: object, maps: list[tuple[int, int]], spec: MaskSpec) -> int:
    inputs = MaskInputs.check(batch, sizes, maps, spec, "float32", False)
    return counter(inputs)(read_only(np.asarray(batch.xyxy)), batch.offsets)


@pytest.mark.parametrize(("box", "patch_size", "min_size", "expected"), BY_HAND)
def test_by_hand(box: list[float], patch_size: int, min_size: float, expected: bool) -> None:
    spec = MaskSpec(patch_size=patch_size, min_size=min_size)
    assert count(BoxBatch.from_list([[box]]), (64, 64), [(8, 8)], spec) == expected


@given(
    scenes(),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=2),
)
def test_as_many_as_numpy_finds(
    scene: Scene, patch_size: int, min_size: float, more: list[tuple[int, int]]
) -> None:
    spec = MaskSpec(patch_size=patch_size, min_size=min_size)
    maps = [scene.feature_map, *more]
    flags = boxes_without_patch(scene.boxes, scene.sizes, maps, spec)
    expected = int(np.logical_and.reduce(flags).sum())
    assert count(BoxBatch.from_list(scene.boxes), scene.sizes, maps, spec) == expected


@pytest.mark.parametrize("side", [1e30, 3e38])
def test_boxes_far_beyond_the_image(side: float) -> None:
    """The first holds every centre, the second lies beside the image."""
    batch = BoxBatch.from_list([[[-side, -side, side, side], [side, side, side, side]]])
    assert count(batch, (64, 64), [(8, 8)], MaskSpec(patch_size=8)) == 1


def test_no_boxes() -> None:
    assert count(BoxBatch.from_list([[], []]), (64, 64), [(8, 8)], MaskSpec(patch_size=8)) == 0


def test_requests_and_the_warm_up_compile_one_kernel() -> None:
    from cass_core.cpu.run import warm_up

    warm_up()
    before = len(count_without_patch.signatures)  # type: ignore[attr-defined]
    batch = BoxBatch.from_list([[[0, 0, 3, 3]], []])
    assert count(batch, [(64, 64), (32, 64)], [(8, 8), (4, 4)], MaskSpec(patch_size=4)) == 1
    assert len(count_without_patch.signatures) == before  # type: ignore[attr-defined]
