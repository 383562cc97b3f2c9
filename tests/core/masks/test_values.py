"""Mask values worked out by hand, for every branch of the formulas.

Unless said otherwise a pixel is a cell and a patch is one cell, so that the centres are 0.5, 1.5,
...; box (4, 4, 8, 8) with an expansion of 0.5 then has a context of 2 cells on each side. With
sigma 0.5 the value at normalised distances u, v is exp(-2 u^2 - 2 v^2).
"""

from __future__ import annotations

from dataclasses import asdict
from math import exp, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cass_core import LossSpec, MaskSpec, WeightSpec, generate_mask
from tests.core.support import reference
from tests.core.support.paths import MakeMask, both_paths

PLAIN = MaskSpec(
    patch_size=1, expansion_ratio=0.5, temperature="fixed", min_radius=0.0, min_size=0.0
)
BOX = (4, 4, 8, 8)


def one(
    make: MakeMask, *boxes: Any, cells: tuple[int, int] = (16, 16), **options: Any
) -> npt.NDArray[np.float32]:
    """The mask of one image with a pixel a cell."""
    mask: npt.NDArray[np.float32] = make([boxes], cells, cells, PLAIN.replace(**options))[0]
    return mask


def approx(expected: Any) -> Any:
    """To five roundings: in the kernels the exponent, which may be 4, is float32 itself."""
    return pytest.approx(expected, rel=6e-7, abs=0)


@both_paths
def test_core_context_and_outside(make: MakeMask) -> None:
    mask = one(make, BOX)
    # y = 6.5 is in the core's rows. x = 1.5 is outside [2, 10]; 2.5 has d = 1.5, u = 0.75;
    # 3.5 has d = 0.5, u = 0.25; from 4.5 to 7.5 it is the core.
    far, near = exp(-2 * 0.75**2), exp(-2 * 0.25**2)
    line = [0, 0, far, near, 1, 1, 1, 1, near, far, 0, 0, 0, 0, 0, 0]
    assert mask[6].tolist() == approx(line)
    assert mask[:, 6].tolist() == approx(line)
    # The corners: u = v = 0.25, and u = 0.75 with v = 0.25.
    assert mask[3, 3] == approx(exp(-4 * 0.25**2))
    assert mask[3, 2] == approx(exp(-2 * 0.75**2 - 2 * 0.25**2))
    assert mask[8, 9] == mask[3, 2]
    # 6 x 6 centres of (2, 10) squared and 2 more on each side: 8 x 8 are reached.
    assert np.count_nonzero(mask) == 64
    assert np.count_nonzero(mask == 1) == 16


@both_paths
def test_rows_are_y_and_columns_x(make: MakeMask) -> None:
    mask = make([[(6, 0, 8, 1)]], (4, 8), (4, 8), PLAIN.replace(expansion_ratio=0))[0]
    assert np.argwhere(mask).tolist() == [[0, 6], [0, 7]]


@both_paths
def test_core_is_closed(make: MakeMask) -> None:
    # Patches of 2 have the centres 1, 3, 5, ...: 3 and 7 lie on the edges.
    assert one(make, (3, 3, 7, 7), patch_size=2, expansion_ratio=0)[2].tolist() == [
        0, 1, 1, 1, 0, 0, 0, 0,
    ]  # fmt: skip
    inside = np.nextafter(np.float32(3), np.float32(4))
    assert one(make, (inside, 3, 7, 7), patch_size=2, expansion_ratio=0)[2].tolist() == [
        0, 0, 1, 1, 0, 0, 0, 0,
    ]  # fmt: skip
    # The map's own edges: 10 cells in patches of 4 put the last centre, 10, on the edge.
    assert one(make, (0, 0, 10, 10), cells=(10, 10), patch_size=4).tolist() == [[1] * 3] * 3


@both_paths
def test_context_is_closed(make: MakeMask) -> None:
    # Dilated (1, 9): the centres 1 and 9 lie on its edge, where d = 2 and u = 2 / 4.
    options: dict[str, Any] = {"patch_size": 2, "min_radius": 4.0}
    edge = exp(-2 * 0.5**2)
    line = one(make, (3, 3, 7, 7), **options)[2]
    assert line.tolist() == approx([edge, 1, 1, 1, edge, 0, 0, 0])
    line = one(make, (3, 3, 7, 7), expansion_ratio=0.499, **options)[2]
    assert line.tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


@both_paths
def test_zero_where_the_distance_reaches_one(make: MakeMask) -> None:
    # As above without a least radius: on the edge u = 2 / 2, and 0 rather than exp(-2).
    line = one(make, (3, 3, 7, 7), patch_size=2)[2]
    assert line.tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    # Isotropic with contexts of 3 and 4: only the corner has d = sqrt(3^2 + 4^2) / 5 = 1.
    mask = one(make, (4, 5, 10, 13), patch_size=2, use_anisotropic_gaussian=False)
    assert mask[0, 0] == 0
    assert mask[0, 3] == approx(exp(-2 * 0.8**2))
    assert mask[3, 0] == approx(exp(-2 * 0.6**2))


@both_paths
def test_min_size(make: MakeMask) -> None:
    options: dict[str, Any] = {"patch_size": 2, "expansion_ratio": 0.0}
    # Centres 5, 7, 9: a point at 7 grows to (6, 8), then to (5, 9), which is closed.
    point = (7, 7, 7, 7)
    assert one(make, point, min_size=2.0, **options).sum() == 1
    assert one(make, point, min_size=4.0, **options).sum() == 9
    assert one(make, point, min_size=3.99, **options).sum() == 1
    # One side alone: y from 1 to 15 stays and holds the eight centres 1, 3, ..., 15.
    mask = one(make, (7, 1, 7, 15), min_size=4.0, **options)
    assert mask.sum(axis=0).tolist() == [0, 0, 8, 8, 8, 0, 0, 0]
    # A side of just the least size stays.
    assert one(make, (5, 5, 9, 9), min_size=4.0, **options).sum() == 9


@both_paths
def test_min_size_comes_before_the_context(make: MakeMask) -> None:
    # (6, 8) grows to (5, 9): the context is 0.5 * 4 wide. x = 3.5 has d = 1.5, u = 0.75.
    line = one(make, (6, 4, 8, 8), min_size=4.0)[6]
    assert line[3] == approx(exp(-2 * 0.75**2))
    assert line[2] == 0
    # The centre that it grows around is the box's own, also where the border cuts it: (-3, -2)
    # becomes (-4.5, -0.5), so x = 0.5 has d = 1 and u = 1 / 2.
    line = one(make, (-3, 4, -2, 8), min_size=4.0)[6]
    assert line[0] == approx(exp(-2 * 0.5**2))


@both_paths
def test_map_that_patches_do_not_divide(make: MakeMask) -> None:
    # 9 cells: centres 2, 6 and 10, which is off the map and so outside every box.
    mask = one(make, (0, 0, 9, 9), cells=(9, 9), patch_size=4)
    assert mask.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    mask = one(make, (-5, -5, 30, 30), cells=(9, 9), patch_size=4)
    assert mask.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


@both_paths
def test_patch_larger_than_the_map(make: MakeMask) -> None:
    # 3 x 5 cells in patches of 4: 3 high and 4 wide, centres y = 1.5 and x = 2 and 6 (off).
    assert one(make, (0, 0, 5, 3), cells=(3, 5), patch_size=4).tolist() == [[1, 0]]
    # In patches of 9: one, centred at (2.5, 1.5).
    assert one(make, (2.5, 1.5, 4, 3), cells=(3, 5), patch_size=9).tolist() == [[1]]
    assert one(make, (3, 1.5, 4, 3), cells=(3, 5), patch_size=9, expansion_ratio=0).sum() == 0


@both_paths
def test_anisotropic_against_isotropic(make: MakeMask) -> None:
    tall = (4, 4, 8, 12)  # e_w = 2, e_h = 4, so the one radius is sqrt(20)
    narrow = one(make, tall)
    round_ = one(make, tall, use_anisotropic_gaussian=False)
    # (2.5, 6.5): d_x = 1.5, d_y = 0.
    assert narrow[6, 2] == approx(exp(-2 * 0.75**2))
    assert round_[6, 2] == approx(exp(-2 * 2.25 / 20))
    # (2.5, 2.5): d_x = d_y = 1.5, u = 0.75, v = 0.375.
    assert narrow[2, 2] == approx(exp(-2 * 0.75**2 - 2 * 0.375**2))
    assert round_[2, 2] == approx(exp(-2 * 4.5 / 20))


@both_paths
def test_linear(make: MakeMask) -> None:
    # (2.5, 3.5) at box (4, 4, 8, 8): u = 0.75, v = 0.25; 1 - max(u, v).
    mask = one(make, BOX, decay_type="linear")
    assert mask[3, 2] == 0.25
    assert mask[2, 3] == 0.25
    assert mask[3, 3] == 0.75
    assert mask[5, 5] == 1
    # Isotropic at the tall box: d = sqrt(4.5 / 20), and along x sqrt(2.25 / 20).
    mask = one(make, (4, 4, 8, 12), decay_type="linear", use_anisotropic_gaussian=False)
    assert mask[2, 2] == approx(1 - sqrt(0.225))
    assert mask[6, 2] == approx(1 - sqrt(0.1125))


@pytest.mark.parametrize("decay_type", ["gaussian", "linear"])
@pytest.mark.parametrize("anisotropic", [True, False])
@both_paths
def test_anchor_of_a_box_beyond_the_border(
    make: MakeMask, anisotropic: bool, decay_type: str
) -> None:
    def value(d: float) -> float:  # of the normalised distance
        return exp(-2 * d * d) if decay_type == "gaussian" else 1 - d

    options: dict[str, Any] = {
        "expansion_ratio": 1.0,
        "use_anisotropic_gaussian": anisotropic,
        "decay_type": decay_type,
    }
    # 3 x 4 cells with a context of 3 and 4: divided by 3, or by sqrt(9 + 16) = 5.
    radius = 3 if anisotropic else 5
    for box, columns in [((-4, 4, -1, 8), (0, 1)), ((17, 4, 20, 8), (15, 14))]:
        true = one(make, box, **options)[6]
        clipped = one(make, box, use_subpixel_offset=False, **options)[6]
        # The centres 0.5 and 1.5 lie 1.5 and 2.5 from the box and 0.5 and 1.5 from the border.
        assert true[list(columns)].tolist() == approx([value(1.5 / radius), value(2.5 / radius)])
        assert clipped[list(columns)].tolist() == approx([value(0.5 / radius), value(1.5 / radius)])
        assert np.count_nonzero(true) == np.count_nonzero(clipped) == 2


@pytest.mark.parametrize("subpixel", [True, False])
@both_paths
def test_box_cut_by_the_border(make: MakeMask, subpixel: bool) -> None:
    # (-6, 4) has the context 5: centres 4.5, 5.5, ... lie 0.5, 1.5, ... from either anchor.
    line = one(make, (-6, 4, 4, 8), use_subpixel_offset=subpixel)[6]
    context = [exp(-2 * (d / 5) ** 2) for d in (0.5, 1.5, 2.5, 3.5, 4.5)]
    assert line.tolist() == approx([1] * 4 + context + [0] * 7)


# With the context 1 cell wide, the centre half a cell beside the core has u = 0.5, so that its
# value is exp(-0.5 / k^2), k being the factor on sigma 0.5.
TEMPERATURES: list[tuple[float, float, dict[str, Any], float]] = [
    # width, height, options, k
    (2, 2, {"temperature": "fixed"}, 1),
    (2, 2, {"temperature": "small_gain"}, 1.5),  # s = 2 < 4
    (4, 4, {"temperature": "small_gain"}, 1),  # s = 4, not below
    (2, 8, {"temperature": "small_gain"}, 1),  # s = sqrt(16)
    (1, 15, {"temperature": "small_gain"}, 1.5),  # s = sqrt(15)
    (16, 1, {"temperature": "small_gain", "small_target_threshold": 4.5}, 1.5),
    (2, 2, {"temperature": "small_gain", "small_target_threshold": 2}, 1),
    (2, 2, {"temperature": "small_gain", "small_target_gain": 0.8}, 0.8),
    (2, 2, {"temperature": "small_gain", "small_target_threshold": 0}, 1),
    (8, 8, {"temperature": "size_scaled"}, 1),  # 8 / 8
    (6, 6, {"temperature": "size_scaled"}, 0.75),  # 6 / 8
    (4, 9, {"temperature": "size_scaled"}, 0.75),  # sqrt(36) / 8
    (4, 4, {"temperature": "size_scaled"}, 0.5),  # just the lower bound
    (2, 2, {"temperature": "size_scaled"}, 0.5),  # 0.25 is below it
    (16, 16, {"temperature": "size_scaled"}, 2),  # just the upper bound
    (24, 24, {"temperature": "size_scaled"}, 2),  # 3 is above it
    (2, 2, {"temperature": "size_scaled", "size_factor_min": 0.125}, 0.25),
    (24, 24, {"temperature": "size_scaled", "size_factor_max": 5}, 3),
    (6, 6, {"temperature": "size_scaled", "size_reference": 4}, 1.5),
    (6, 6, {"temperature": "size_scaled", "size_factor_min": 1, "size_factor_max": 1}, 1),
]


@pytest.mark.parametrize(("width", "height", "options", "k"), TEMPERATURES)
@pytest.mark.parametrize("anisotropic", [True, False])
@both_paths
def test_temperature(
    make: MakeMask,
    width: float,
    height: float,
    options: dict[str, Any],
    k: float,
    anisotropic: bool,
) -> None:
    # The isotropic radius is e_w sqrt(1 + (height / width)^2).
    ratio = 1 / width
    radius = 1 if anisotropic else sqrt(1 + (height * ratio) ** 2)
    mask = one(
        make,
        (4, 4, 4 + width, 4 + height),
        cells=(32, 32),
        expansion_ratio=ratio,
        use_anisotropic_gaussian=anisotropic,
        **options,
    )
    assert mask[4, 3] == approx(exp(-0.5 / (radius * k) ** 2))


@both_paths
def test_temperature_takes_the_size_after_min_size(make: MakeMask) -> None:
    # A point becomes 4 x 4: s = 4 is not small. (4, 8) and 0.5 beside it: u = 0.5 / 2.
    mask = one(make, (6, 6, 6, 6), min_size=4.0, temperature="small_gain")
    assert mask[6, 3] == approx(exp(-2 * 0.25**2))
    mask = one(make, (6, 6, 6, 6), min_size=4.0, temperature="small_gain", base_sigma=0.25)
    assert mask[6, 3] == approx(exp(-8 * 0.25**2))


@both_paths
def test_temperature_takes_the_size_before_clipping(make: MakeMask) -> None:
    # (-2, 2) is 4 cells wide of which 2 are on the map: s = 4, not below the threshold.
    mask = one(make, (-2, 4, 2, 8), temperature="small_gain")
    assert mask[6, 2] == approx(exp(-2 * 0.25**2))


@both_paths
def test_pair_of_sigmas_is_x_then_y(make: MakeMask) -> None:
    mask = one(make, BOX, base_sigma=(0.4, 0.8))
    # u or v = 0.25: exp(-0.0625 / (2 sigma^2)), with 2 sigma^2 = 0.32 along x and 1.28 along y.
    assert mask[6, 3] == approx(exp(-0.0625 / 0.32))
    assert mask[3, 6] == approx(exp(-0.0625 / 1.28))
    assert mask[3, 3] == approx(exp(-0.0625 / 0.32 - 0.0625 / 1.28))
    # The factor is on both.
    mask = one(make, BOX, base_sigma=[0.4, 0.8], temperature="size_scaled")  # k = 4 / 8
    assert mask[3, 3] == approx(exp(-0.0625 / 0.08 - 0.0625 / 0.32))
    # Equal ones are one number.
    equal = one(make, BOX, base_sigma=(0.4, 0.4), use_anisotropic_gaussian=False)
    assert equal.tolist() == one(make, BOX, base_sigma=0.4, use_anisotropic_gaussian=False).tolist()


@both_paths
def test_min_radius(make: MakeMask) -> None:
    # e = 2: a least radius of 1 changes nothing, 3 makes u = 1.5 / 3.
    assert one(make, BOX, min_radius=1.0).tolist() == one(make, BOX).tolist()
    assert one(make, BOX, min_radius=3.0)[6, 2] == approx(exp(-2 * 0.5**2))
    # It widens the radius, not the reach.
    assert one(make, BOX, min_radius=3.0)[6, 1] == 0
    # Isotropic: sqrt(8) is below 5, so d = 1.5 / 5; it is not below 2.
    round_ = one(make, BOX, min_radius=5.0, use_anisotropic_gaussian=False)
    assert round_[6, 2] == approx(exp(-2 * 0.3**2))
    round_ = one(make, BOX, min_radius=2.0, use_anisotropic_gaussian=False)
    assert round_[6, 2] == approx(exp(-2 * 2.25 / 8))


@pytest.mark.parametrize("min_radius", [0.0, 1.0])
@pytest.mark.parametrize("anisotropic", [True, False])
@both_paths
def test_without_context(make: MakeMask, min_radius: float, anisotropic: bool) -> None:
    mask = one(
        make, BOX, expansion_ratio=0.0, min_radius=min_radius, use_anisotropic_gaussian=anisotropic
    )
    expected = np.zeros((16, 16))
    expected[4:8, 4:8] = 1
    assert mask.tolist() == expected.tolist()


@pytest.mark.parametrize("min_radius", [0.0, 1.0])
@pytest.mark.parametrize(
    ("temperature", "k"), [("fixed", 1), ("small_gain", 1.5), ("size_scaled", 0.5)]
)
@both_paths
def test_box_without_a_width(make: MakeMask, min_radius: float, temperature: str, k: float) -> None:
    options: dict[str, Any] = {
        "patch_size": 2,
        "temperature": temperature,
        "min_radius": min_radius,
    }
    # x = 5 is a centre; its neighbours 3 and 7 are outside, there being no context along x.
    # y from 1 to 9 holds 1, 3, ..., 9; its context of 4 holds 11 (v = 2 / 4) and 13 (v = 1).
    line = [1, 1, 1, 1, 1, exp(-0.5 / k**2), 0, 0]
    mask = one(make, (5, 1, 5, 9), **options)
    assert mask[:, 2].tolist() == approx(line)
    assert np.count_nonzero(mask) == 6
    mask = one(make, (1, 5, 9, 5), **options)
    assert mask[2].tolist() == approx(line)
    assert np.count_nonzero(mask) == 6
    # A point, on a centre and beside one.
    assert one(make, (5, 5, 5, 5), **options).sum() == 1
    assert one(make, (6, 5, 6, 5), **options).sum() == 0


@both_paths
def test_merges(make: MakeMask) -> None:
    # Linear with context 2. (9.5, 6.5) is 1.5 from the first two: 0.25 of each. (3.5, 6.5) is
    # 0.5 from the first and in the core of the third.
    boxes = [BOX, (11, 4, 15, 8), (2, 4, 4, 8)]
    # The third, 2 wide, has a context of 1: (4.5, 6.5) is 0.5 from it, in the first's core.
    for merge, middle, left, core in [
        ("max", 0.25, 1, 1),
        ("sum", 0.5, 1.75, 1.5),
        ("clipped_sum", 0.5, 1, 1),
    ]:
        line = one(make, *boxes, decay_type="linear", merge=merge)[6]
        assert (line[9], line[3], line[4]) == (middle, left, core)
    # Twice the same: exp(-2 * 0.75^2) = 0.325 twice.
    line = one(make, BOX, BOX, merge="sum")[6]
    assert line[2] == approx(2 * exp(-1.125))
    assert line[5] == 2
    line = one(make, BOX, BOX, BOX, BOX, merge="clipped_sum")[6]
    assert line[2] == 1


@both_paths
def test_owner(make: MakeMask) -> None:
    boxes = [BOX, (11, 4, 15, 8), BOX]
    mask, owner = make([[], boxes], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert owner.dtype == np.int32
    assert (owner[0] == -1).all()
    # The first of equals; 9.5 is 1.5 from box 0 and 1.5 from box 1: equal, the first again;
    # x = 10.5 is 0.5 from box 1.
    assert owner[1, 6].tolist() == [-1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert mask[1, 6, 9] == approx(exp(-1.125))
    _, owner = make([boxes[1:]], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert owner[0, 6].tolist() == [-1, -1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    # The nearer box owns the patch, wherever it stands in the list.
    _, owner = make(
        [[(4, 4, 9, 8), BOX, (9, 4, 13, 8)]], (16, 16), (16, 16), PLAIN, "float32", True
    )
    assert owner[0, 6, [8, 9, 12]].tolist() == [0, 2, 2]
    # Two cores: the first.
    boxes = [(4, 4, 9, 8), (7, 4, 12, 8)]
    _, owner = make([boxes], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert owner[0, 6, 4:12].tolist() == [0] * 5 + [1] * 3


@both_paths
def test_owner_within_its_image_and_none_at_distance_one(make: MakeMask) -> None:
    spec = PLAIN.replace(patch_size=2)
    _, owner = make([[BOX, BOX], [(3, 3, 7, 7)]], (16, 16), (16, 16), spec, return_owner=True)
    assert owner[1, 2].tolist() == [-1, 0, 0, 0, -1, -1, -1, -1]


@both_paths
def test_sizes_of_each_image(make: MakeMask) -> None:
    # 64 x 32 pixels on 16 x 16 cells: a cell is 2 wide and 4 high.
    mask = make([[BOX], [(8, 16, 16, 32)]], [(16, 16), (64, 32)], (16, 16), PLAIN)
    assert mask[0].tolist() == one(make, BOX).tolist()
    assert mask[1].tolist() == mask[0].tolist()


@both_paths
def test_several_feature_maps(make: MakeMask) -> None:
    masks = make([[BOX], []], (16, 16), [(16, 16), (8, 4)], PLAIN)
    assert isinstance(masks, list)
    assert [mask.shape for mask in masks] == [(2, 16, 16), (2, 8, 4)]
    assert masks[0][0].tolist() == one(make, BOX).tolist()
    # On 8 x 4 cells of 2 x 4 pixels it is (1, 2, 2, 4): columns 1, rows 2 and 3 are the core;
    # (0.5, 2.5) has d_x = 0.5 of a context of 0.5; row 1 has d_y = 0.5 of 1.
    expected = [[0, 0, 0, 0], [0, exp(-2 * 0.5**2), 0, 0], [0, 1, 0, 0]]
    assert masks[1][0, :3].tolist() == [approx(line) for line in expected]
    pair = make([[BOX]], (16, 16), [(16, 16), (8, 4)], PLAIN, return_owner=True)
    assert [[part.shape for part in parts] for parts in pair] == [[(1, 16, 16), (1, 8, 4)]] * 2
    assert isinstance(make([[BOX]], (16, 16), [(16, 16)], PLAIN), list)


@both_paths
def test_image_without_boxes(make: MakeMask) -> None:
    mask, owner = make([[], [BOX], []], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert not mask[[0, 2]].any()
    assert (owner[[0, 2]] == -1).all()
    assert mask[1].tolist() == one(make, BOX).tolist()
    mask, owner = make([[], []], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert (mask.shape, mask.any(), owner.max()) == ((2, 16, 16), False, -1)


@pytest.mark.parametrize("merge", ["max", "sum", "clipped_sum"])
@pytest.mark.parametrize(
    "box",
    [
        (-9, 4, -5, 8),  # its context ends at -3
        (4, -9, 8, -5),
        (25, 4, 29, 8),
        (4, 25, 8, 29),
        (-9, -9, -5, -5),
        (1e30, 4, 2e30, 8),
        (-3e38, -3e38, -2e38, 3e38),
    ],
)
@both_paths
def test_box_wholly_outside(make: MakeMask, box: Any, merge: str) -> None:
    assert not one(make, box, merge=merge).any()
    assert one(make, BOX, box, merge=merge).tolist() == one(make, BOX, merge=merge).tolist()


@both_paths
def test_box_that_covers_everything(make: MakeMask) -> None:
    assert (one(make, (-1e30, -1e30, 1e30, 1e30)) == 1).all()
    assert (one(make, (-3.4e38, -3.4e38, 3.4e38, 3.4e38)) == 1).all()
    assert (one(make, (0, 0, 16, 16)) == 1).all()


def test_no_images() -> None:
    for boxes in ([], np.zeros((0, 0, 4), np.float32)):
        mask, owner = generate_mask(boxes, (8, 8), (9, 6), return_owner=True)
        assert (mask.shape, mask.dtype) == ((0, 9, 6), np.float32)
        assert (owner.shape, owner.dtype) == ((0, 9, 6), np.int32)
    several = generate_mask([], [], [(4, 4), (8, 7)], MaskSpec(patch_size=4))
    assert [mask.shape for mask in several] == [(0, 1, 1), (0, 2, 2)]


def test_presets() -> None:
    assert asdict(MaskSpec.improved()) == reference.IMPROVED
    assert asdict(MaskSpec.baseline()) == reference.BASELINE
    assert asdict(MaskSpec.cas_detr()) == reference.CAS_DETR
    assert MaskSpec() == MaskSpec.recommended() == MaskSpec.improved()
    improved = LossSpec.improved()
    assert (improved.kind, improved.alpha, improved.beta) == ("focal", 2, 4)
    assert (improved.gamma, improved.weight, improved.reduction) == (2, 0.75, "mean")
    assert LossSpec() == LossSpec.recommended() == LossSpec(kind="cornernet", alpha=2, beta=4)
    assert LossSpec.baseline() == LossSpec(kind="mse")
    cas_detr = LossSpec(kind="varifocal", weight=2, gamma=4, logit_clamp=8, reduction="mean")
    assert LossSpec.cas_detr() == cas_detr
    assert WeightSpec.recommended() == WeightSpec(balance="object", background_weight=1)
    assert WeightSpec() == WeightSpec(balance="patch", background_weight=1)


def test_torch_in_torch_out() -> None:
    mask, owner = generate_mask([torch.tensor([BOX])], (16, 16), (16, 16), PLAIN, return_owner=True)
    assert (mask.dtype, owner.dtype) == (torch.float32, torch.int32)
    assert (mask[0, 6, 6], mask[0, 0, 0], owner[0, 6, 6]) == (1, 0, 0)
