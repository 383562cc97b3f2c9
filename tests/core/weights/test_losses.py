"""Losses with weights and clamped logits, on all three paths."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import (
    CassLoss,
    LossSpec,
    MaskLoss,
    MaskSpec,
    WeightSpec,
    compute_loss,
    generate_mask,
)
from tests.core.support import reference
from tests.core.support.loss_paths import KINDS, TakeLoss, all_paths
from tests.core.support.paths import compiled, interpreted
from tests.support.interpreted import kernels

every_kind = pytest.mark.parametrize("kind", KINDS)
LOGITS = np.array([[-9.0, -1, 0.5, 2], [8, 8.5, -8, 30]])
TARGET = np.array([[0.0, 0.25, 1, 0.5], [1, 0, 0.75, 0]])
WEIGHTS = np.array([[1.0, 0, 2, 0.5], [3, 0.25, 0, 1]])


def expected(kind: Any, clamp: float = np.inf) -> Any:
    """The reference's loss of every patch."""
    pairs = zip(np.clip(LOGITS, -clamp, clamp).ravel(), TARGET.ravel(), strict=True)
    return np.array([reference.loss(kind, *pair) for pair in pairs]).reshape(LOGITS.shape)


@all_paths
@every_kind
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
def test_values(take: TakeLoss, kind: Any, reduction: Any) -> None:
    spec = LossSpec(kind=kind, reduction=reduction)
    result = take(LOGITS, TARGET, spec, 3, WEIGHTS)
    losses = WEIGHTS * expected(kind)
    divisor = {"none": 1, "mean": WEIGHTS.sum(), "sum": 1, "per_object": 3}[reduction]
    value = losses if reduction == "none" else losses.sum() / divisor
    np.testing.assert_allclose(result.loss, value, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(result.sum, losses.sum(), rtol=1e-9)
    assert result.normalizer == divisor
    plain = take(LOGITS, TARGET, LossSpec(kind=kind, reduction="sum"))
    np.testing.assert_allclose(result.grad, plain.grad * WEIGHTS / divisor, rtol=1e-12)


@all_paths
@every_kind
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_no_weight_no_poison(take: TakeLoss, kind: Any, dtype: Any) -> None:
    """Where the weight is 0 gradient and loss are exactly 0, whatever the logit."""
    logits = LOGITS.astype(dtype)
    logits[WEIGHTS == 0] = np.nan, np.inf
    logits = np.concatenate([logits, np.full((1, 4), -np.inf, dtype)])
    target = np.concatenate([TARGET, [[0, 0.5, 1, 0.25]]])
    weights = np.concatenate([WEIGHTS, np.zeros((1, 4))])
    clean = np.where(weights == 0, 0, logits).astype(dtype)
    for reduction in ("none", "mean", "sum", "per_object"):
        spec: Any = LossSpec(kind=kind, reduction=reduction)
        result, same = (take(s, target, spec, 2, weights) for s in (logits, clean))
        assert not result.grad[weights == 0].any()
        np.testing.assert_array_equal(result.grad, same.grad)
        np.testing.assert_array_equal(result.loss, same.loss)
        assert np.isfinite(result.sum)


@all_paths
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
def test_nothing_weighs_anything(take: TakeLoss, reduction: Any) -> None:
    logits = np.array([[np.nan, 1, -np.inf]], np.float32)
    spec = LossSpec(reduction=reduction)
    result = take(logits, np.ones_like(logits), spec, 0, np.zeros_like(logits))
    assert not np.any(result.loss)
    assert not result.grad.any()
    assert result.sum == 0
    assert result.normalizer == (0 if reduction == "mean" else 1)


@all_paths
@every_kind
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_clamped_logits(take: TakeLoss, kind: Any, weights: Any) -> None:
    spec = LossSpec(kind=kind, reduction="none", logit_clamp=8)
    result = take(LOGITS, TARGET, spec, None, weights)
    factor = 1 if weights is None else weights
    np.testing.assert_allclose(result.loss, expected(kind, 8) * factor, rtol=1e-9, atol=1e-15)
    plain = take(LOGITS, TARGET, spec.replace(logit_clamp=None), None, weights)
    inside = np.abs(LOGITS) <= 8
    # At the bound the gradient is that of the loss.
    np.testing.assert_allclose(result.grad[inside], plain.grad[inside], rtol=1e-12)
    assert not result.grad[~inside].any()


@all_paths
def test_clamped_infinity_and_nan(take: TakeLoss) -> None:
    logits = np.array([np.inf, -np.inf, np.nan], np.float32)
    result = take(logits, np.zeros(3), LossSpec(kind="bce", reduction="none", logit_clamp=2))
    np.testing.assert_allclose(result.loss[:2], np.logaddexp(0, [2, -2]), rtol=1e-6)
    assert np.isnan(result.loss[2])
    assert result.grad[:2].tolist() == [0, 0]
    assert np.isnan(result.grad[2])


def test_weights_stay_finite() -> None:
    """A share of the largest weight there is, of fewer patches than the average."""
    boxes, largest = [[(0.0, 0, 8, 8), (16, 16, 60, 60)]], float(np.finfo(np.float32).max)
    for make in (compiled, interpreted):
        _, weights = make(
            boxes, (64, 64), (8, 8), return_weights=True, weight_spec=WeightSpec("object"),
            box_weights=[[largest, 1]],
        )  # fmt: skip
        assert weights.max() == np.float32(largest)


def test_more_than_a_block() -> None:
    """The compiled loops go block by block, in several threads."""
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(3, 100_000)).astype(np.float32)
    target, weights = generator.random((2, *logits.shape), np.float32)
    weights[:, 70_000:80_000] = 0
    spec = LossSpec(kind="bce", logit_clamp=1)
    result = compute_loss(logits, target, spec, weights=weights, return_grad=True)
    s = np.clip(logits.astype(np.float64), -1, 1)
    losses = np.logaddexp(0, s) - target * s
    np.testing.assert_allclose(
        result.loss, (losses * weights).sum() / weights.sum(dtype=float), 1e-6
    )
    slope = np.where(np.abs(logits) > 1, 0, 1 / (1 + np.exp(-s)) - target) * weights
    np.testing.assert_allclose(result.grad, slope / weights.sum(dtype=float), rtol=1e-3, atol=1e-9)


def test_levels_in_their_own_form() -> None:
    parts = [slice(0, 1), slice(1, 4)]
    lists: Any = [[array[:, part, None] for part in parts] for array in (LOGITS, TARGET, WEIGHTS)]
    spec = LossSpec(kind="bce", reduction="none")
    for logits in (lists[0], LOGITS):
        result = compute_loss(logits, lists[1], spec, weights=lists[2], return_grad=True)
        for value in (result.loss, result.grad):
            assert isinstance(value, list) == isinstance(logits, list)
        row = np.concatenate(result.loss, axis=1)[..., 0] if logits is lists[0] else result.loss
        np.testing.assert_allclose(row, WEIGHTS * expected("bce"), rtol=1e-12)
    alone = compute_loss(LOGITS, TARGET, spec, weights=lists[2])
    np.testing.assert_allclose(alone.loss, WEIGHTS * expected("bce"), rtol=1e-12)
    whole = compute_loss(lists[0], lists[1], spec.replace(reduction="mean"), weights=lists[2])
    np.testing.assert_allclose(whole.loss, (WEIGHTS * expected("bce")).sum() / WEIGHTS.sum())


@pytest.mark.parametrize("by_kernels", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_agree(by_kernels: bool, dtype: torch.dtype) -> None:
    """From boxes as from their mask and weights; and a factor on the loss."""
    boxes = [[(4.0, 4, 30, 20), (36, 36, 60, 50)], [(8.0, 8, 16, 40)]]
    regions: Any = {"valid_region": [(0, 0, 60, 64)] * 2, "box_weights": [[1, 2], [0.5]]}
    specs: Any = MaskSpec(), LossSpec(logit_clamp=2), WeightSpec("object", 0.25)
    maps = [(8, 8), (4, 4)]
    masks, weights = generate_mask(
        [torch.tensor(b) for b in boxes], (64, 64), maps, specs[0], weight_spec=specs[2],
        return_weights=True, **regions,
    )  # fmt: skip
    levels = [torch.randn(2, *cells).mul(3).to(dtype).requires_grad_() for cells in maps]
    again = [level.detach().clone().requires_grad_() for level in levels]
    with kernels() if by_kernels else contextlib.nullcontext():
        value = CassLoss(*specs)(levels, boxes, (64, 64), maps, **regions)
        (3 * value).backward()
    other = MaskLoss(specs[1])(again, masks, weights=weights)
    (3 * other).backward()
    torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)
    for first, second in zip(levels, again, strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("by_kernels", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("from_boxes", [True, False])
def test_a_second_backward_pass(from_boxes: bool, by_kernels: bool) -> None:
    """The first scales the gradient in its place; the second makes it anew."""
    boxes, weights = [[(4.0, 4, 30, 20)]], torch.rand(1, 4, 4)
    logits = torch.ones(1, 4, 4).requires_grad_()
    with kernels() if by_kernels else contextlib.nullcontext():
        if from_boxes:
            value = CassLoss()(logits, boxes, (32, 32), (4, 4), valid_region=[(0, 0, 20, 32)])
        else:
            value = MaskLoss()(logits, torch.full((1, 4, 4), 0.5), weights=weights)
        (first,) = torch.autograd.grad(2 * value, logits, retain_graph=True)
        first = first.clone()
        (second,) = torch.autograd.grad(6 * value, logits)
    assert first.any()
    torch.testing.assert_close(second, 3 * first)


def test_compiled() -> None:
    torch.compiler.reset()
    loss = CassLoss(weight_spec=WeightSpec("object"))
    boxes = [[(4.0, 4, 30, 20)]]
    eager, traced = (torch.ones(1, 8, 8).requires_grad_() for _ in range(2))
    loss(eager, boxes, (64, 64), (8, 8)).backward()
    torch.compile(loss, backend="aot_eager")(traced, boxes, (64, 64), (8, 8)).backward()
    torch.testing.assert_close(traced.grad, eager.grad)
    torch.compiler.reset()
    weights = torch.rand(1, 8, 8)
    step = torch.compile(MaskLoss(), backend="aot_eager", fullgraph=True)
    value = step(traced, torch.ones(1, 8, 8), weights=weights)
    torch.testing.assert_close(value, MaskLoss()(traced, torch.ones(1, 8, 8), weights=weights))
