"""Values, gradients, reductions and dtypes of the losses."""

from __future__ import annotations

import math
from itertools import product
from math import log
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import LossResult, LossSpec, compute_loss
from tests.core.support import reference
from tests.core.support.loss_paths import KINDS, TakeLoss, all_paths

every_kind = pytest.mark.parametrize("kind", KINDS)

# At logit 0, p = 1/2 and both logarithms are -ln 2. At ln 3, p = 3/4: log p = ln(3/4) = -A and
# log(1 - p) = ln(1/4) = -B. The exponents are the defaults, alpha 2, beta 4, gamma 2, a 0.75.
L, A, B = log(2), log(4 / 3), log(4)
HAND: list[tuple[Any, float, float, float]] = [
    # kind, logit, target, loss
    ("mse", 0, 0, 1 / 4),
    ("mse", 0, 0.5, 0),
    ("mse", 0, 1, 1 / 4),
    ("mse", log(3), 0, 9 / 16),
    ("mse", log(3), 0.5, 1 / 16),
    ("mse", log(3), 1, 1 / 16),
    ("bce", 0, 0, L),
    ("bce", 0, 0.5, L),
    ("bce", 0, 1, L),
    ("bce", log(3), 0, B),
    ("bce", log(3), 0.5, (A + B) / 2),
    ("bce", log(3), 1, A),
    ("focal", 0, 0, L / 16),  # p^4
    ("focal", 0, 0.5, L / 4 / 2 + L / 16 / 2),
    ("focal", 0, 1, L / 4),  # (1 - p)^2
    ("focal", log(3), 0, 81 / 256 * B),
    ("focal", log(3), 0.5, A / 16 / 2 + 81 / 256 * B / 2),
    ("focal", log(3), 1, A / 16),
    ("cornernet", 0, 0, L / 4),  # (1 - y)^4 = 1, p^2
    ("cornernet", 0, 0.5, L / 16 / 4),  # (1 - y)^4 = 1/16
    ("cornernet", 0, 1, L / 4),
    ("cornernet", log(3), 0, 9 / 16 * B),
    ("cornernet", log(3), 0.5, 9 / 16 * B / 16),
    ("cornernet", log(3), 1, A / 16),
    ("quality_focal", 0, 0, L / 4),
    ("quality_focal", 0, 0.5, 0),
    ("quality_focal", 0, 1, L / 4),
    ("quality_focal", log(3), 0, 9 / 16 * B),
    ("quality_focal", log(3), 0.5, (A + B) / 2 / 16),
    ("quality_focal", log(3), 1, A / 16),
    ("varifocal", 0, 0, 0.75 / 4 * L),
    ("varifocal", 0, 0.5, L / 2),
    ("varifocal", 0, 1, L),
    ("varifocal", log(3), 0, 0.75 * 9 / 16 * B),
    ("varifocal", log(3), 0.5, (A + B) / 2 / 2),
    ("varifocal", log(3), 1, A),
    ("soft_focal", 0, 0, 0.75 / 4 * L),  # q = 1/2 for every target
    ("soft_focal", 0, 0.5, 0.75 / 4 * L),
    ("soft_focal", 0, 1, 0.75 / 4 * L),
    ("soft_focal", log(3), 0, 0.75 * 9 / 16 * B),
    ("soft_focal", log(3), 0.5, 0.75 / 4 * (A + B) / 2),
    ("soft_focal", log(3), 1, 0.75 / 16 * A),
]


@all_paths
@pytest.mark.parametrize(("kind", "logit", "target", "expected"), HAND)
def test_by_hand(take: TakeLoss, kind: Any, logit: float, target: float, expected: float) -> None:
    spec = LossSpec(kind=kind, reduction="none")
    for dtype, rel in ((np.float64, 1e-14), (np.float32, 5e-7)):
        result = take(np.array([logit], dtype), np.array([target], dtype), spec)
        assert result.loss[0] == pytest.approx(expected, rel=rel, abs=rel / 100)


def _formula(spec: LossSpec, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The losses as one writes them down, for autograd to differentiate."""
    p = torch.sigmoid(s)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(s, y, reduction="none")
    match spec.kind:
        case "mse":
            return (p - y).square()
        case "bce":
            return bce
        case "focal":
            return -((1 - p) ** spec.alpha) * p.log() * y - p**spec.beta * (1 - p).log() * (1 - y)
        case "cornernet":
            top = -((1 - p) ** spec.alpha) * p.log()
            rest = -((1 - y) ** spec.beta) * p**spec.alpha * (1 - p).log()
            return torch.where(y == 1, top, rest)
        case "quality_focal":
            return (y - p).abs() ** spec.gamma * bce
        case "varifocal":
            background = -spec.weight * p**spec.gamma * (1 - p).log()
            return torch.where(y > 0, y * bce, background)
        case "soft_focal":
            q = p * y + (1 - p) * (1 - y)
            return spec.weight * (1 - q) ** spec.gamma * bce


EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.7, 17.0)
# No logit whose sigmoid is a target: the slope of |p - y|^gamma has no limit there.
LOGITS, TARGETS = (-6.0, -2.5, -0.3, 0.0, 0.7, 3.1, 7.0), (0.0, 1e-3, 0.3, 0.55, 0.97, 1.0)
PAIRS = np.array(list(product(LOGITS, TARGETS)))


@all_paths
@every_kind
@pytest.mark.parametrize("first", EXPONENTS)
@pytest.mark.parametrize("second", [0.0, 1.5, 4.0])
def test_value_and_gradient_against_autograd(
    take: TakeLoss, kind: Any, first: float, second: float
) -> None:
    # beta weighs the background of `cornernet` and of `focal`; a weight of 0 leaves it out.
    spec = LossSpec(
        kind=kind, alpha=first, beta=second, gamma=first, weight=second, reduction="none"
    )
    s = torch.tensor(PAIRS[:, 0], requires_grad=True)
    expected = _formula(spec, s, torch.tensor(PAIRS[:, 1]))
    (slope,) = torch.autograd.grad(expected.sum(), s)
    result = take(*PAIRS.T, spec)
    np.testing.assert_allclose(result.loss, expected.detach().numpy(), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(result.grad, slope.numpy(), rtol=1e-10, atol=1e-15)
    narrow = take(*PAIRS.T.astype(np.float32), spec)
    np.testing.assert_allclose(narrow.loss, expected.detach().numpy(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(narrow.grad, slope.numpy(), rtol=1e-4, atol=2e-6)


@all_paths
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_quality_focal_where_the_target_is_met(take: TakeLoss, gamma: float) -> None:
    spec = LossSpec(kind="quality_focal", gamma=gamma, reduction="none")
    result = take(np.zeros(1), np.full(1, 0.5), spec)
    # |y - p|^0 is 1 everywhere: plain cross entropy, whose slope p - y is 0 here too.
    assert result.loss[0] == pytest.approx(log(2) if gamma == 0 else 0)
    assert result.grad[0] == 0


@all_paths
@every_kind
def test_reductions(take: TakeLoss, kind: Any) -> None:
    rng = np.random.default_rng(1)
    logits, target = rng.normal(size=(2, 3, 5)), rng.random((2, 3, 5))
    by_patch = np.vectorize(lambda s, y: reference.loss(kind, s, y))(logits, target)
    spec = LossSpec(kind=kind)
    total = by_patch.sum()
    none = take(logits, target, spec.replace(reduction="none"))
    np.testing.assert_allclose(none.loss, by_patch, rtol=1e-12)
    assert none.normalizer == 1
    for reduction, num_boxes, normalizer in [
        ("none", None, 1.0),
        ("sum", None, 1.0),
        ("sum", 7, 1.0),
        ("mean", None, 30.0),
        ("mean", 7, 30.0),
        ("per_object", 0, 1.0),
        ("per_object", 0.5, 1.0),
        ("per_object", 1, 1.0),
        ("per_object", 2.5, 2.5),
        ("per_object", np.float32(4), 4.0),
        ("per_object", np.int64(7), 7.0),
    ]:
        result = take(logits, target, spec.replace(reduction=reduction), num_boxes)
        assert result.normalizer == normalizer
        assert type(result.normalizer) is float
        assert result.sum == pytest.approx(total, rel=1e-12)
        assert result.sum.shape == ()
        if reduction != "none":
            assert result.loss.shape == ()
            assert result.loss == pytest.approx(total / normalizer, rel=1e-12)
        assert result.grad.shape == logits.shape
        np.testing.assert_allclose(result.grad, none.grad / normalizer, rtol=1e-12)


@all_paths
@every_kind
@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 2, 2), (3, 0)])
def test_nothing(take: TakeLoss, kind: Any, shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    for reduction, num_boxes in [("mean", None), ("sum", None), ("per_object", 0), ("none", None)]:
        result = take(empty, empty, LossSpec(kind=kind, reduction=reduction), num_boxes)
        assert result.sum == 0
        assert result.normalizer == 1
        assert result.grad.shape == shape
        if reduction == "none":
            assert result.loss.shape == shape
        else:
            assert result.loss == 0


EXTREME = (1e4, 88.0, 87.5, 104.0, 65504.0, 30.0, 0.0, 3e38)


@all_paths
@every_kind
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_logits(take: TakeLoss, kind: Any, dtype: Any) -> None:
    spec = LossSpec(kind=kind, reduction="none")
    logits = [sign * s for s in EXTREME for sign in (1, -1) if s <= float(np.finfo(dtype).max)]
    for target in (0.0, 0.5, 1.0):
        expected = [reference.loss(kind, s, target) for s in logits]
        result = take(np.array(logits, dtype), np.full(len(logits), target, dtype), spec)
        assert np.isfinite(result.loss).all()
        assert np.isfinite(result.grad).all()
        rtol = 1e-12 if dtype == np.float64 else 1e-6
        # Below the smallest normal float32 a value may be flushed to 0.
        np.testing.assert_allclose(result.loss, expected, rtol=rtol, atol=2e-38)


# At logit s -> +inf the loss goes as slope * s, at -inf likewise.
FAR_SLOPES: list[tuple[Any, float, float, float]] = [
    # kind, target, slope at +1e4, slope at -1e4
    ("mse", 0.5, 0, 0),
    ("bce", 0, 1, 0),
    ("bce", 0.25, 0.75, -0.25),
    ("bce", 1, 0, -1),
    ("focal", 0, 1, 0),
    ("focal", 0.25, 0.75, -0.25),
    ("cornernet", 0, 1, 0),
    ("cornernet", 0.5, 1 / 16, 0),
    ("cornernet", 1, 0, -1),
    ("quality_focal", 0.25, 0.75**3, -(0.25**3)),
    ("varifocal", 0, 0.75, 0),
    ("varifocal", 0.25, 0.25 * 0.75, -(0.25**2)),
]


@all_paths
@pytest.mark.parametrize(("kind", "target", "up", "down"), FAR_SLOPES)
def test_gradient_at_extreme_logits(
    take: TakeLoss, kind: Any, target: float, up: float, down: float
) -> None:
    spec = LossSpec(kind=kind, reduction="sum")
    for dtype in (np.float16, np.float32, np.float64):
        result = take(np.array([1e4, -1e4], dtype), np.full(2, target, dtype), spec)
        np.testing.assert_allclose(result.grad.astype(float), [up, down], rtol=5e-4, atol=0)


@all_paths
@every_kind
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_logits_that_are_not_finite(take: TakeLoss, kind: Any, dtype: Any, target: float) -> None:
    logits = np.array([0, np.nan, 1, np.inf, 2, -np.inf], dtype)
    spec = LossSpec(kind=kind, reduction="none")
    result = take(logits, np.full(6, target, dtype), spec)
    for values in (result.loss, result.grad):
        assert np.isnan(values).tolist() == [False, True] * 3
    assert np.isnan(result.sum)
    assert np.isnan(take(logits, np.full(6, target, dtype), spec.replace(reduction="mean")).loss)


@all_paths
@every_kind
def test_float16_is_computed_in_float32(take: TakeLoss, kind: Any) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 4, (3, 50)).astype(np.float16)
    target = rng.random((3, 50)).astype(np.float16)
    spec = LossSpec(kind=kind, reduction="none")
    half = take(logits, target, spec)
    wide = take(logits.astype(np.float32), target.astype(np.float32), spec)
    assert (half.loss.dtype, half.sum.dtype, half.grad.dtype) == (
        np.float32,
        np.float32,
        np.float16,
    )
    np.testing.assert_array_equal(half.loss, wide.loss)
    np.testing.assert_array_equal(half.grad, wide.grad.astype(np.float16))
    # A half target beside float32 logits is widened as well.
    mixed = take(logits.astype(np.float32), target, spec)
    np.testing.assert_array_equal(mixed.grad, wide.grad)


@every_kind
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_bfloat16_is_computed_in_float32(kind: Any, reduction: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(3, 50, generator=generator)).to(torch.bfloat16)
    target = torch.rand(3, 50, generator=generator).to(torch.bfloat16)
    spec = LossSpec(kind=kind, reduction=reduction)
    half = compute_loss(logits, target, spec, return_grad=True)
    wide = compute_loss(logits.float(), target.float(), spec, return_grad=True)
    assert (half.loss.dtype, half.sum.dtype) == (torch.float32, torch.float32)
    assert half.grad.dtype == torch.bfloat16
    assert torch.equal(half.loss, wide.loss)
    assert torch.equal(half.grad, wide.grad.to(torch.bfloat16))


@all_paths
@every_kind
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_uint8_target_is_a_255th(take: TakeLoss, kind: Any, dtype: Any) -> None:
    logits = np.linspace(-5, 5, 256).astype(dtype)
    target = np.arange(256, dtype=np.uint8)
    spec = LossSpec(kind=kind, reduction="none")
    found = take(logits, target, spec)
    expected = [
        reference.loss(kind, float(s), int(y) / 255) for s, y in zip(logits, target, strict=True)
    ]
    np.testing.assert_allclose(found.loss, expected, rtol=2e-5, atol=1e-6)
    # 255 / 255 is just 1, which `cornernet` tells from everything below.
    same = take(logits, (target.astype(np.float64) / 255).astype(np.float32), spec)
    np.testing.assert_array_equal(found.loss[[0, -1]], same.loss[[0, -1]])


@all_paths
@every_kind
def test_a_float64_target_is_rounded_before_it_is_checked(take: TakeLoss, kind: Any) -> None:
    target = np.array([1 + 1e-12, 0.5, -1e-60])
    logits = np.array([0.3, 0.0, -1.0], np.float32)
    spec = LossSpec(kind=kind, reduction="none")
    found = take(logits, target, spec)
    rounded = [1.0, 0.5, 0.0]
    expected = [reference.loss(kind, float(s), y) for s, y in zip(logits, rounded, strict=True)]
    np.testing.assert_allclose(found.loss, expected, rtol=2e-5, atol=1e-6)
    assert np.isfinite(found.grad).all()


@all_paths
@pytest.mark.parametrize(
    ("logits", "target"),
    [((2, 3, 4), (2, 12)), ((2, 12), (2, 3, 4)), ((2, 3, 4), (2, 3, 4)), ((24,), (24,))],
)
def test_flattened_grid(take: TakeLoss, logits: Any, target: Any) -> None:
    rng = np.random.default_rng(4)
    s, y = rng.normal(size=24), rng.random(24)
    expected = [reference.loss("bce", *pair) for pair in zip(s, y, strict=True)]
    spec = LossSpec(kind="bce", reduction="none")
    result = take(s.reshape(logits), y.reshape(target), spec)
    assert result.loss.shape == result.grad.shape == logits
    np.testing.assert_allclose(result.loss.ravel(), expected, rtol=1e-12)


# Around the block of the compiled loop, and around the lanes of its sum.
@all_paths
@every_kind
@pytest.mark.parametrize("size", [1, 7, 8, 9, 1023, 1024, 1025, 2048, 2055])
def test_sizes_around_a_block(take: TakeLoss, kind: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    s, y = rng.normal(0, 3, size), rng.random(size)
    expected = np.array([reference.loss(kind, *pair) for pair in zip(s, y, strict=True)])
    for reduction in ("none", "mean"):
        result = take(s, y, LossSpec(kind=kind, reduction=reduction))
        np.testing.assert_allclose(result.sum, expected.sum(), rtol=1e-12)
        wanted = expected if reduction == "none" else expected.mean()
        np.testing.assert_allclose(result.loss, wanted, rtol=1e-11)
        assert result.grad.shape == (size,)
    # Each gradient is of its own patch: alone, each is the same.
    for i in {0, size // 2, size - 1}:
        alone = take(s[[i]], y[[i]], LossSpec(kind=kind, reduction="sum"))
        assert result.grad[i] * size == pytest.approx(alone.grad[0], rel=1e-11)


def test_sum_of_many_float32_losses_is_exact_to_float32() -> None:
    # 2^22 losses of ln 2: a running sum in float32 would stall near 2^24 ulps.
    logits = np.zeros(1 << 22, np.float32)
    result = compute_loss(logits, logits, LossSpec(kind="bce", reduction="sum"))
    assert result.sum == pytest.approx(log(2) * 2**22, rel=1e-7)


def test_numpy_in_numpy_out() -> None:
    logits = np.zeros((2, 3), np.float32)
    result = compute_loss(logits, logits)
    assert isinstance(result, LossResult)
    assert type(result.loss) is type(result.sum) is np.float32
    assert result.grad is None
    assert result.normalizer == 6
    result = compute_loss(logits.astype(np.float64), logits, return_grad=True)
    assert type(result.loss) is type(result.sum) is np.float64
    assert type(result.grad) is np.ndarray
    # Nested lists are NumPy's.
    assert type(compute_loss([[0.0]], [[1.0]]).loss) is np.float64


def test_torch_in_torch_out() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    result = compute_loss(logits, torch.zeros(2, 3), return_grad=True)
    for value in (result.loss, result.sum, result.grad):
        assert isinstance(value, torch.Tensor)
        assert value.dtype == torch.float32
        assert not value.requires_grad
    assert result.loss.shape == result.sum.shape == ()
    assert compute_loss(logits, torch.zeros(2, 3)).grad is None
    assert compute_loss(logits.double(), torch.zeros(2, 3)).loss.dtype == torch.float64


@all_paths
def test_arrays_that_are_not_contiguous(take: TakeLoss) -> None:
    rng = np.random.default_rng(5)
    s, y = rng.normal(size=(6, 8)), rng.random((6, 8))
    spec = LossSpec(kind="bce", reduction="none")
    plain = take(s[::2].copy(), y[:3].copy(), spec)
    turned = take(s[::2], np.asfortranarray(y[:3]), spec)
    np.testing.assert_array_equal(turned.loss, plain.loss)
    np.testing.assert_array_equal(turned.grad, plain.grad)


def test_arrays_of_another_byte_order() -> None:
    rng = np.random.default_rng(6)
    logits, target = rng.normal(size=(2, 3)), rng.random((2, 3)).astype(np.float32)
    swapped = compute_loss(logits.astype(">f8"), target.astype(">f4"), return_grad=True)
    plain = compute_loss(logits, target, return_grad=True)
    assert swapped.loss == plain.loss
    assert np.array_equal(swapped.grad, plain.grad)


def test_tensors_that_are_negated_lazily() -> None:
    values = torch.rand(2, 8, dtype=torch.complex64)
    lazy = values.conj().imag
    assert lazy.is_neg()
    plain = lazy.clone().resolve_neg()
    assert compute_loss(lazy, -plain).loss == compute_loss(plain, -plain).loss


def test_inputs_are_left_alone() -> None:
    logits, target = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    for array in (logits, target):
        array.flags.writeable = False
    result = compute_loss(logits, target, return_grad=True)
    assert math.isfinite(result.loss)
    assert result.grad.flags.writeable
