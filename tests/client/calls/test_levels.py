"""Losses of several levels, also of equal shape, which NumPy would stack."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch

from cass_client import AsyncCassClient, CassClient, InvalidRequest
from cass_core import LossResult, LossSpec, compute_loss
from tests.support.compare import same

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "equal": [(2, 3, 4), (2, 3, 4)],
    "different": [(2, 3, 4), (2, 2, 2)],
    "flat": [(2, 12), (2, 12)],
    "one": [(2, 3, 4)],
    "as heads give them": [(2, 1, 3, 4), (2, 12, 1)],
}


def levels(
    shapes: list[tuple[int, ...]], low: float, high: float, tensors: bool, seed: int
) -> list[Any]:
    generator = np.random.default_rng(seed)
    arrays = [generator.uniform(low, high, shape).astype(np.float32) for shape in shapes]
    return [torch.from_numpy(array) for array in arrays] if tensors else arrays


def asynchronously(target: str, *arguments: Any, **options: Any) -> LossResult:
    async def call() -> LossResult:
        async with AsyncCassClient(target) as client:
            return await client.compute_loss(*arguments, **options)

    return asyncio.run(call())


def of_both_clients(target: str, *arguments: Any, **options: Any) -> list[LossResult]:
    with CassClient(target) as client:
        found = client.compute_loss(*arguments, **options)
    return [found, asynchronously(target, *arguments, **options)]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("kind", "weighted"), [(list, False), (tuple, True), ("tensors", True)])
def test_levels(address: str, reduction: Any, shapes: str, kind: Any, weighted: bool) -> None:
    tensors = kind == "tensors"
    form: Any = list if tensors else kind
    logits, target, weights = (
        form(levels(SHAPES[shapes], low, high, tensors, seed))
        for seed, (low, high) in enumerate([(-3, 3), (0, 1), (0, 2)])
    )
    spec = LossSpec(reduction=reduction)
    options: dict[str, Any] = {"num_boxes": 5, "return_grad": True}
    options |= {"weights": weights} if weighted else {}
    # What the levels have one by one, in sums.
    alone = [
        compute_loss(
            x, y, LossSpec(reduction="sum"), return_grad=True,
            **({"weights": w} if weighted else {}),
        )
        for x, y, w in zip(logits, target, weights, strict=True)
    ]  # fmt: skip
    total = sum(float(result.sum) for result in alone)
    patches = float(sum(w.sum() if weighted else np.prod(w.shape) for w in weights))
    divisor = {"none": 1.0, "sum": 1.0, "mean": patches, "per_object": 5.0}[reduction]
    expected = compute_loss(logits, target, spec, **options)
    for place in ("local:", address):
        for found in of_both_clients(place, logits, target, loss_spec=spec, **options):
            assert float(found.sum) == pytest.approx(total, rel=1e-5)
            assert float(found.normalizer) == pytest.approx(divisor, rel=1e-5)
            assert [part.shape for part in found.grad] == [part.shape for part in logits]
            for part, of_level in zip(found.grad, alone, strict=True):
                np.testing.assert_allclose(part, of_level.grad / divisor, rtol=1e-4, atol=1e-7)
            same(found.grad, expected.grad)
            same(found.loss, expected.loss)


def test_a_row_beside_lists(address: str) -> None:
    """As `MaskCollate` gives the masks, and a head the tokens."""
    target = levels(SHAPES["equal"], 0, 1, False, 6)
    row = np.random.default_rng(7).normal(size=(2, 24)).astype(np.float32)
    flat = np.concatenate([level.reshape(2, -1) for level in target], axis=1)
    expected = compute_loss(row, flat, return_grad=True)
    for place in ("local:", address):
        for found in of_both_clients(place, row, target, return_grad=True):
            same([found.loss, found.grad], [expected.loss, expected.grad])


ONES = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (([ONES, ONES], [ONES]), {}, "target: has the shape [2, 3, 4], the logits have [2, 24]"),
        (([ONES, ONES], [ONES] * 3), {}, "target: has 3 levels, the logits have 2"),
        (([ONES, ONES], np.stack([ONES, ONES])), {}, "target: has the shape [2, 2, 3, 4], the"),
        ((ONES, [ONES, ONES]), {}, "target: has the shape [2, 24], the logits have [2, 3, 4]"),
        (([ONES, ONES], [ONES, ONES[:, :2]]), {},
         "target[1]: has the shape [2, 2, 4], the logits have [2, 3, 4]"),
        (([ONES, ONES], [ONES, ONES]), {"weights": [ONES] * 3},
         "weights: has 3 levels, the logits have 2"),
        (([ONES, ONES],), {"boxes": [[], []], "image_size": (24, 32), "feature_map": (3, 4)},
         "logits: are a list of 2 levels; a loss from boxes is of one array: RemoteCassLoss takes"),
        (([torch.ones(4), torch.ones(4)], torch.ones(2, 4)), {},
         "logits: must be one tensor, or a list of levels with at least two dimensions each"),
        (([ONES, torch.ones(2, 3, 4)], [ONES, ONES]), {},
         "logits: must be arrays of one kind and dtype, on one device"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(arguments: Any, options: Any, error: str) -> None:
    for call in (of_both_clients, asynchronously):
        with pytest.raises(InvalidRequest) as caught:
            call("local:", *arguments, **options)
        assert str(caught.value).startswith(error)
