"""What holds for weights, over random boxes, regions and options."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cass_core import CassLoss, LossSpec, MaskSpec, WeightSpec, compute_loss, generate_mask
from tests.core.support import reference
from tests.core.support.loss_paths import KINDS
from tests.core.support.paths import MakeMask, compiled, interpreted
from tests.core.support.strategies import Scene, boxes_in, mask_options, one_of, scenes

Options = dict[str, Any]
STRIDE = 8


class Weighted(NamedTuple):
    """A scene with what weighs its patches."""

    scene: Scene
    maps: list[tuple[int, int]]
    options: Options
    weighting: Options


@st.composite
def weighted(draw: st.DrawFn, max_cells: int = 9) -> Weighted:
    """Of one or two levels; each argument may be missing."""
    scene = draw(scenes(max_images=2, max_cells=max_cells))
    options = draw(mask_options(merge=one_of("max", "max", "max", "sum", "clipped_sum")))
    maps = [scene.feature_map, (3, 4)][: draw(st.integers(1, 2))]
    if draw(st.booleans()):
        edge = draw(st.integers(1, 60))
        options |= {"level_ranges": ((0, edge), (edge, np.inf))[: len(maps)]}
    is_max = options["merge"] == "max"
    found: Options = {
        "balance": draw(one_of("patch", "object")) if is_max else "patch",
        "background_weight": draw(one_of(1.0, 0.0, 0.25)),
    }
    if draw(st.booleans()):
        found["valid_region"] = [draw(boxes_in(size)) for size in scene.sizes]
    if draw(st.booleans()):
        found["ignore"] = [draw(st.lists(boxes_in(s), max_size=2)) for s in scene.sizes]
    if is_max and draw(st.booleans()):
        number = one_of(1.0, 0.0, 0.5) | st.floats(0, 8, width=32)
        found["box_weights"] = [
            draw(st.lists(number, min_size=n, max_size=n)) for n in map(len, scene.boxes)
        ]
    return Weighted(scene, maps, options, found)


def made(make: MakeMask, case: Weighted, **changes: Any) -> Any:
    weighting = dict(case.weighting)
    spec = WeightSpec(weighting.pop("balance"), weighting.pop("background_weight"))
    return make(
        case.scene.boxes, case.scene.sizes, case.maps, MaskSpec(**case.options),
        return_weights=True, weight_spec=spec, **weighting | changes,
    )  # fmt: skip


def answer_of(case: Weighted) -> reference.Weights:
    scene = case.scene
    return reference.weights(scene.boxes, scene.sizes, case.maps, case.options, **case.weighting)


def same_where_safe(case: Weighted, weights: list[Any]) -> None:
    expected = answer_of(case)
    if case.weighting["balance"] == "object" and not all(safe.all() for safe in expected.safe):
        return  # an object's share depends on every patch
    for found, values, safe in zip(weights, expected.values, expected.safe, strict=True):
        np.testing.assert_allclose(found[safe], values[safe], rtol=1e-6)


@settings(max_examples=80)
@given(case=weighted())
def test_equals_the_reference(case: Weighted) -> None:
    masks, weights = made(compiled, case)
    same_where_safe(case, weights)
    spec = MaskSpec(**case.options)
    for mask, alone in zip(masks, compiled(*case.scene[:2], case.maps, spec), strict=True):
        np.testing.assert_array_equal(mask.view(np.uint32), alone.view(np.uint32))


@settings(max_examples=20)  # the interpreter is slow
@given(case=weighted())
@pytest.mark.slow
def test_kernels_equal_the_compiled_loops(case: Weighted) -> None:
    """Unsafe points too: both compare by the same float64 operations."""
    for found, expected in zip(made(interpreted, case), made(compiled, case), strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


@settings(max_examples=40)
@given(case=weighted(), dtype=one_of("float16", "uint8"))
def test_short_dtypes_change_no_weight(case: Weighted, dtype: str) -> None:
    """A value that is rounded to 0 is one of an object all the same."""
    if case.options["merge"] == "sum":
        return
    _, weights = made(compiled, case)
    _, others = made(compiled, case, dtype=dtype)
    for found, expected in zip(others, weights, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=40)
@given(case=weighted())
def test_objects_have_equal_shares(case: Weighted) -> None:
    """Together they weigh what they weighed before."""
    if case.options["merge"] != "max":
        return
    weighting = case.weighting | {"balance": "object", "box_weights": None}
    case = case._replace(weighting=weighting)
    sums: dict[tuple[int, int], float] = {}
    patches = 0
    _, owners, weights = made(compiled, case, return_owner=True)
    for owner, of_level in zip(owners, weights, strict=True):
        for at in np.argwhere((owner >= 0) & (of_level > 0)):
            place = tuple(at)
            name = int(at[0]), int(owner[place])
            sums[name] = sums.get(name, 0.0) + float(of_level[place])
            patches += 1
    if sums:
        np.testing.assert_allclose(list(sums.values()), patches / len(sums), rtol=1e-4)


SIZES = [(32, 48), (24, 40), (32, 16)]
BOXES: list[list[tuple[float, float, float, float]]] = [
    [(3, 5, 20, 21), (26, 2, 40, 30)], [(9, 1, 30, 22)], [(2, 10, 13, 27), (1, 1, 5, 5)],
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("balance", ["patch", "object"])
def test_padding_changes_nothing(reduction: Any, balance: Any) -> None:
    """A padded batch has the loss and the gradients of its images one by one."""
    generator = np.random.default_rng(4)
    padded = (max(h for h, _ in SIZES), max(w for _, w in SIZES))
    cells = padded[0] // STRIDE, padded[1] // STRIDE
    logits = torch.tensor(generator.normal(size=(3, *cells)), requires_grad=True)
    valid = [(0, 0, width, height) for height, width in SIZES]
    spec = LossSpec(kind="bce", reduction=reduction)
    loss = CassLoss(loss_spec=spec, weight_spec=WeightSpec(balance))
    value = loss(logits, BOXES, padded, cells, valid_region=valid)
    value.backward()
    assert logits.grad is not None
    sums, patches = 0.0, 0
    for image, (height, width) in enumerate(SIZES):
        own = height // STRIDE, width // STRIDE
        alone = logits[image, : own[0], : own[1]].detach()[None].requires_grad_()
        plain = CassLoss(loss_spec=LossSpec(kind="bce", reduction="sum"))
        if balance == "patch":
            of_image = plain(alone, [BOXES[image]], (height, width), own)
            of_image.backward()
            sums += of_image.item()
            assert alone.grad is not None
            divisor = 1 if reduction == "sum" else sum(h * w // STRIDE**2 for h, w in SIZES)
            np.testing.assert_allclose(
                logits.grad[image, : own[0], : own[1]], alone.grad[0] / divisor, rtol=1e-6
            )
        patches += own[0] * own[1]
        assert not logits.grad[image, own[0] :].any()
        assert not logits.grad[image, :, own[1] :].any()
    if balance == "patch":
        expected = sums if reduction == "sum" else sums / patches
        np.testing.assert_allclose(value.item(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(factor=one_of(1.0, 1e-30, 1e-42, 1e20) | st.floats(2**-10, 2**10, width=32))
def test_constant_weights_change_no_mean(kind: Any, factor: float) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(2, 70)).astype(np.float32) * 3
    target = generator.random((2, 70), np.float32)
    spec = LossSpec(kind=kind)
    plain = compute_loss(logits, target, spec, return_grad=True)
    weights = np.full_like(target, factor)
    result = compute_loss(logits, target, spec, weights=weights, return_grad=True)
    loss_rtol = 1e-5 if factor > 1e-37 else 0.5  # a loss times a subnormal number keeps few digits
    np.testing.assert_allclose(result.loss, plain.loss, rtol=loss_rtol)
    np.testing.assert_allclose(result.grad, plain.grad, rtol=1e-4, atol=1e-9)


def test_a_box_without_weight_has_no_gradient() -> None:
    logits = torch.randn(1, 8, 8, requires_grad=True)
    boxes = [[(4.0, 4, 30, 20), (36, 36, 60, 50)]]
    CassLoss()(logits, boxes, (64, 64), (8, 8), box_weights=[[0, 1]]).backward()
    _, owner = compiled(boxes, (64, 64), (8, 8), return_owner=True)
    assert logits.grad is not None
    assert not logits.grad[torch.from_numpy(owner == 0)].any()
    assert logits.grad[torch.from_numpy(owner == 1)].all()


@pytest.mark.parametrize("balance", ["patch", "object"])
@pytest.mark.parametrize(
    ("size", "cells", "box", "options"),
    [
        ((351, 300), (11, 10), (223, 134, 239, 155), {}),
        ((300, 351), (10, 11), (134, 223, 155, 239), {}),
        ((355, 250), (4, 10), (98, 262, 116, 306), {"min_size": 1.7, "expansion_ratio": 0.5}),
        ((192, 364), (4, 5), (234, 18, 286, 71), {"min_size": 0.3, "expansion_ratio": 1}),
    ],
)
def test_a_patch_on_the_edge_has_its_owners_weight(
    size: Any, cells: Any, box: Any, options: Options, balance: Any
) -> None:
    """A rounding decides whether the dilated box holds its centre; masks and weights agree."""
    _, owner, weights = compiled(
        [[box]], size, cells, MaskSpec(**options), return_owner=True, return_weights=True,
        weight_spec=WeightSpec(balance), box_weights=[[0.25]],
    )  # fmt: skip
    assert (weights == np.where(owner == 0, 0.25, 1)).all()


@settings(max_examples=40)
@given(case=weighted(), data=st.data())
def test_ignoring_only_takes_away(case: Weighted, data: st.DataObject) -> None:
    """Another ignored box makes weights 0, but none in a core."""
    case = case._replace(weighting=case.weighting | {"balance": "patch"})
    more = [
        data.draw(st.lists(boxes_in(size), min_size=1, max_size=2)) for size in case.scene.sizes
    ]
    ignore = case.weighting.get("ignore") or [[] for _ in more]
    both = [[*a, *b] for a, b in zip(ignore, more, strict=True)]
    masks, before = made(compiled, case)
    _, after = made(compiled, case, ignore=both)
    for mask, first, second in zip(masks, before, after, strict=True):
        assert ((second == first) | (second == 0)).all()
        if case.options["decay_type"] == "linear" and case.options["expansion_ratio"] > 0.1:
            core = mask >= 1  # only there is a linear value 1
            if case.options["merge"] == "max":
                np.testing.assert_array_equal(first[core], second[core])


def test_a_copy_on_a_finer_level_changes_no_other_share() -> None:
    """But by T / K: two objects on one level, then one of them on the finer one too."""
    boxes = [[(0.0, 0, 8, 8), (16, 16, 40, 40)]]
    spec = MaskSpec(expansion_ratio=0)

    def of_objects(ranges: Any) -> tuple[list[Any], list[Any]]:
        _, owners, weights = compiled(
            boxes, (64, 64), [(8, 8), (16, 16)], spec.replace(level_ranges=ranges),
            return_owner=True, return_weights=True, weight_spec=WeightSpec("object"),
        )  # fmt: skip
        return owners, weights

    (owners, weights), (_, others) = of_objects([(0, 99), (90, 99)]), of_objects([(0, 99), (0, 9)])
    patches = 1 + 9, 1 + 9 + 4
    first, second = weights[0][owners[0] == 1], others[0][owners[0] == 1]
    np.testing.assert_allclose(first, patches[0] / 2 / 9, rtol=1e-6)
    np.testing.assert_allclose(second, patches[1] / 2 / 9, rtol=1e-6)
    assert others[0][owners[0] == 0] == pytest.approx(patches[1] / 2 / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_several_levels_are_the_sum_of_each(kind: Any) -> None:
    maps, size = [(8, 12), (4, 6)], (64, 96)
    spec = MaskSpec(level_ranges=((0, 20), (20, np.inf)))
    loss_spec = LossSpec(kind=kind, reduction="sum")
    weight_spec = WeightSpec(background_weight=0.25)
    regions: Options = {"valid_region": [(0, 0, 70, 64)], "ignore": [[(30, 30, 60, 60)]]}
    boxes = [[(4.0, 4, 20, 19), (24, 8, 80, 60)]]
    logits = [torch.randn(1, *cells, dtype=torch.float64) for cells in maps]
    value = CassLoss(spec, loss_spec, weight_spec)(logits, boxes, size, maps, **regions)
    each = [
        CassLoss(spec.of_level(level), loss_spec, weight_spec)(
            logits[level], boxes, size, maps[level], **regions
        )
        for level in range(2)
    ]
    np.testing.assert_allclose(value, sum(each), rtol=1e-12)
    masks = generate_mask(boxes, size, maps, spec)
    assert (masks[0].max(), masks[1].max()) == (1, 1)
