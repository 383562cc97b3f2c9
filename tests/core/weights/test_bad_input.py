"""Arguments of weights that cannot be used: each is named, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import (
    BoxBatch,
    CassLoss,
    InvalidRequest,
    LossSpec,
    MaskLoss,
    MaskSpec,
    WeightSpec,
    compute_loss,
    generate_mask,
)

BOX = (1.0, 1, 6, 6)
BOXES = [[BOX, (5.0, 5, 8, 8)], [BOX]]


def mask(spec: MaskSpec = MaskSpec(), **weighting: Any) -> Callable[[], Any]:  # noqa: B008
    return lambda: generate_mask(
        BOXES, (8, 8), (4, 4), spec, **{"return_weights": True} | weighting
    )


def loss(**changes: Any) -> Callable[[], Any]:
    given = {"logits": np.zeros((2, 4), np.float32), "target": np.zeros((2, 4))}
    return lambda: compute_loss(**given | changes)


def spec(kind: Any, **options: Any) -> Callable[[], Any]:
    return lambda: kind(**options)


def ranges(value: Any) -> Callable[[], Any]:
    return spec(MaskSpec, level_ranges=value)


ZEROS = np.zeros((2, 4), np.float32)
KINDS = "must be arrays of one kind and dtype, on one device"
PAIR = "must be a pair (low, high), got"
NUMBER = "must be a finite number of at least 0, got"
SUM = MaskSpec(merge="sum")
CASES: list[tuple[Callable[[], Any], str, str]] = [
    (spec(WeightSpec, balance="box"), "weight_spec.balance",
     "must be one of patch, object, got 'box'"),
    (spec(WeightSpec, background_weight=-1), "weight_spec.background_weight",
     "must be a finite number at least 0, got -1"),
    (spec(WeightSpec, background_weight=float("nan")), "weight_spec.background_weight",
     "must be a finite number at least 0, got nan"),
    (spec(WeightSpec, background_weight=1e39), "weight_spec.background_weight",
     "must be at most 3e+38"),
    (spec(LossSpec, logit_clamp=0), "loss_spec.logit_clamp",
     "must be a finite number above 0, got 0"),
    (spec(LossSpec, logit_clamp=float("inf")), "loss_spec.logit_clamp",
     "must be a finite number above 0, got inf"),
    (ranges(64), "mask_spec.level_ranges", "must be None or a list of pairs (low, high), got 64"),
    (ranges([64, 128]), "mask_spec.level_ranges[0]", f"{PAIR} 64"),
    (ranges([(0, 64), (64, 128, 256)]), "mask_spec.level_ranges[1]", f"{PAIR} (64, 128, 256)"),
    (ranges([(64, 64)]), "mask_spec.level_ranges[0]", "must have low < high, got (64, 64)"),
    (ranges([(-1, 64)]), "mask_spec.level_ranges[0]", "must be a finite number at least 0, got -1"),
    (ranges([(0, float("nan"))]), "mask_spec.level_ranges[0]",
     "must be a finite number above 0, got nan"),
    (mask(MaskSpec(level_ranges=((0, 9), (9, 99)))), "mask_spec.level_ranges",
     "has 2 entries, but there are 1 feature maps"),
    (lambda: CassLoss(MaskSpec(level_ranges=((0, 9),)))(
        torch.zeros(2, 20), BOXES, (8, 8), [(4, 4), (2, 2)]), "mask_spec.level_ranges",
     "has 1 entries, but there are 2 feature maps"),
    (mask(weight_spec="object"), "weight_spec", "must be a WeightSpec, got str"),
    (lambda: CassLoss(weight_spec="object"), "weight_spec",  # type: ignore[arg-type]
     "must be a WeightSpec, got str"),
    (mask(return_weights=1), "return_weights", "must be True or False, got 1"),
    (mask(SUM, weight_spec=WeightSpec("object")), "weight_spec.balance",
     "object needs mask_spec.merge max"),
    (mask(SUM, box_weights=[[1, 1], [1]]), "box_weights", "need mask_spec.merge max"),
    (mask(valid_region=[(0, 0, 8, 8)]), "valid_region",
     "has 1 entries, but there are 2 images"),
    (mask(valid_region=(0, 0, 8, 8)), "valid_region", "must have the shape [N, 4], got [4]"),
    (mask(valid_region="all"), "valid_region",
     "must be an array of numbers of the shape [N, 4]"),
    (mask(valid_region=[(0, 0, 8, 8), (0, 6, 8, 2)]), "valid_region[1].y2",
     "is smaller than y1; boxes are x1, y1, x2, y2"),
    (mask(valid_region=[(0, 0, np.inf, 8)] * 2), "valid_region[0].x2", "is not finite (inf)"),
    (mask(valid_region=[(0, 0, 6, 2)] * 3, return_weights=False), "valid_region",
     "has 3 entries, but there are 2 images"),
    (mask(ignore=[[]]), "ignore", "has 1 entries, but there are 2 images"),
    (mask(ignore=BoxBatch.from_list([[BOX]] * 3)), "ignore",
     "has 3 entries, but there are 2 images"),
    (mask(ignore=[[], [(0, 0, 1)]]), "ignore[1]", "must have the shape [N, 4], got [1, 3]"),
    (mask(ignore=[[], [BOX, (5, 0, 1, 2)]]), "ignore[1][1].x2",
     "is smaller than x1; boxes are x1, y1, x2, y2"),
    (mask(ignore=5), "ignore", "must be a list with one entry an image, got int"),
    (mask(box_weights=[[1, 1]]), "box_weights", "has 1 entries, but there are 2 images"),
    (mask(box_weights=[[1, 1], [1, 1]]), "box_weights[1]",
     "has the shape [2], there are 1 boxes"),
    (mask(box_weights=np.ones(4)), "box_weights", "have the shape [4], there are 3 boxes"),
    (mask(box_weights=torch.ones(3, 1)), "box_weights",
     "have the shape [3, 1], there are 3 boxes"),
    (mask(box_weights=[[1, -2], [1]]), "box_weights[0][1]", f"{NUMBER} -2.0"),
    (mask(box_weights=[[1, 1], [float("nan")]]), "box_weights[1][0]", f"{NUMBER} nan"),
    (mask(box_weights=np.array([1, np.inf, 1])), "box_weights[1]", f"{NUMBER} inf"),
    (mask(box_weights=[[1, 1e39], [1]]), "box_weights[0][1]", f"{NUMBER} inf"),
    (mask(box_weights=[["a", "b"], [1]]), "box_weights[0]", "must be an array of numbers"),
    (mask(box_weights=1.5), "box_weights", "must be a list with one entry an image"),
    (mask(box_weights=[None, [1]]), "box_weights[0]", "has the shape [0], there are 2 boxes"),
    (mask(box_weights=np.ma.masked_equal([1, 2, 3], 2)), "box_weights", "has masked values"),
    (loss(weights=np.ones((2, 3))), "weights", "has the shape [2, 3], the logits have [2, 4]"),
    (loss(weights=-np.ones((2, 4))), "weights[0][0]", f"{NUMBER} -1.0"),
    (loss(weights=np.array([[1, 1, 1, 1], [1, 1, np.nan, 1]])), "weights[1][2]", f"{NUMBER} nan"),
    (loss(weights=np.full((2, 4), 1e39)), "weights[0][0]", f"{NUMBER} inf"),
    (loss(weights=np.ones((2, 4), np.uint8)), "weights",
     "must have a dtype of float32, float16, bfloat16, float64, got uint8"),
    (loss(weights=torch.ones(2, 4)), "weights",
     "must be of the same kind (NumPy or torch) as the logits"),
    (loss(logits=[np.zeros((2, 4))] * 2, target=[np.zeros((2, 4))] * 2,
          weights=[np.ones((2, 4))] * 3), "weights", "has 3 levels, the logits have 2"),
    (loss(logits=[np.zeros((2, 4))] * 2, target=[np.zeros((2, 4)), np.zeros((2, 3))]),
     "target[1]", "has the shape [2, 3], the logits have [2, 4]"),
    (loss(logits=[ZEROS, ZEROS.astype(np.float16)], target=[ZEROS] * 2), "logits", KINDS),
    (loss(logits=[ZEROS, torch.zeros(2, 4)], target=[ZEROS] * 2), "logits", KINDS),
    (loss(logits=[torch.zeros(2, 4), ZEROS], target=[ZEROS] * 2), "logits", KINDS),
    (loss(logits=[ZEROS, ZEROS[:1]], target=[ZEROS] * 2), "logits[1]",
     "has 1 images, logits[0] has 2"),
    (loss(logits=[ZEROS, np.ma.masked_equal(ZEROS, 0)], target=[ZEROS] * 2), "logits[1]",
     "has masked values"),
    (loss(weights=[ZEROS[:, :2], ZEROS[:1, :2]]), "weights[1]", "has 1 images, weights[0] has 2"),
    (lambda: MaskLoss()(torch.zeros(2, 4), torch.zeros(2, 4), weights=-torch.ones(2, 4)),
     "weights[0][0]", f"{NUMBER} -1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "field", "reason"), CASES)
def test_refused(call: Callable[[], Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_by_every_form() -> None:
    """Lists, arrays and tensors; ragged or packed."""
    region, ignored = [(0, 2, 8, 8)] * 2, [[(0, 0, 3, 3)], []]
    expected = mask(valid_region=region, ignore=ignored, box_weights=[[1, 0.5], [2]])()[1]
    forms: list[dict[str, Any]] = [
        {"valid_region": np.array(region), "ignore": [np.array(ignored[0]), None],
         "box_weights": np.array([1, 0.5, 2])},
        {"valid_region": torch.tensor(region), "ignore": BoxBatch.from_list(ignored),
         "box_weights": [torch.tensor([1, 0.5]), np.array([2])]},
        {"valid_region": [torch.tensor(r) for r in region], "ignore": ignored,
         "box_weights": torch.tensor([1, 0.5, 2], dtype=torch.float16)},
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(mask(**form)()[1], expected)
    assert 0.5 in expected
    assert (expected == 0).any()


def test_order_of_what_is_returned() -> None:
    found = mask(return_owner=True)()
    assert [part.dtype for part in found] == [np.float32, np.int32, np.float32]
    several = generate_mask(BOXES, (8, 8), [(4, 4), (2, 2)], return_owner=True, return_weights=True)
    assert [[part.shape for part in parts] for parts in several] == [[(2, 4, 4), (2, 2, 2)]] * 3
    tensors = generate_mask([torch.tensor([BOX])], (8, 8), (4, 4), return_weights=True)
    assert [part.dtype for part in tensors] == [torch.float32] * 2
    assert (tensors[1] == 1).all()


def test_nothing_in_a_batch() -> None:
    weighting: Any = {"weight_spec": WeightSpec("object"), "return_weights": True}
    mask, weights = generate_mask([], (8, 8), (4, 4), **weighting)
    assert mask.shape == weights.shape == (0, 4, 4)
    _, weights = generate_mask([[], None], (8, 8), (4, 4), **weighting, box_weights=[[], None])
    assert (weights == 1).all()
