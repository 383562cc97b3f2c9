"""CassLoss and MaskLoss: the differentiable loss from logits and boxes, or a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cass_core import (
    BoxBatch,
    CassLoss,
    InvalidRequest,
    LossSpec,
    MaskLoss,
    MaskSpec,
    generate_mask,
)
from tests.core.support import reference
from tests.core.support.loss_paths import KINDS

BOXES: list[list[tuple[float, float, float, float]]] = [
    [(4, 4, 20, 20), (10, 2, 30, 12)],
    [],
    [(0, 8, 12, 31)],
]
PLACE: dict[str, Any] = {"image_size": (32, 32), "feature_map": (8, 10)}
PATCH = MaskSpec(patch_size=2)  # 4 x 5 patches
REDUCTIONS = ("none", "mean", "sum", "per_object")

every_kind = pytest.mark.parametrize("kind", KINDS)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def some_logits(dtype: torch.dtype = torch.float64, shape: Any = (3, 4, 5)) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def expected_losses(kind: str, logits: Tensor) -> np.ndarray[Any, Any]:
    """The reference's loss of every patch, on the reference's mask."""
    target = reference.masks(BOXES, [(32, 32)] * 3, (8, 10), {"patch_size": 2}).mask
    pairs = zip(logits.flatten().tolist(), target.ravel().tolist(), strict=True)
    return np.array([reference.loss(kind, *pair) for pair in pairs])


@every_kind
@every_reduction
def test_value(kind: Any, reduction: Any) -> None:
    logits = some_logits()
    value = CassLoss(PATCH, LossSpec(kind=kind, reduction=reduction))(logits, BOXES, **PLACE)
    assert value.dtype == torch.float64
    losses = expected_losses(kind, logits)
    if reduction == "none":
        assert value.shape == logits.shape
        expected = losses
    else:
        assert value.shape == ()
        # Three boxes, sixty patches.
        divisor = {"sum": 1, "mean": 60, "per_object": 3}[reduction]
        expected = losses.sum() / divisor
    # The mask is float32.
    np.testing.assert_allclose(value.numpy().ravel(), expected, rtol=1e-5, atol=1e-7)


def test_defaults_are_the_recommended_preset() -> None:
    loss = CassLoss()
    assert (loss.mask_spec, loss.loss_spec) == (MaskSpec.recommended(), LossSpec.recommended())
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


@every_kind
@every_reduction
def test_gradcheck(kind: Any, reduction: Any) -> None:
    loss = CassLoss(PATCH, LossSpec(kind=kind, reduction=reduction))

    def value(logits: Tensor) -> Tensor:
        # Squared, so that the outer gradient is not 1; for `none` it differs by patch.
        found: Tensor = loss(logits, BOXES, **PLACE) ** 2
        return found

    assert torch.autograd.gradcheck(value, some_logits().requires_grad_())


@every_reduction
def test_outer_gradient(reduction: Any) -> None:
    logits = some_logits().requires_grad_()
    loss = CassLoss(PATCH, LossSpec(reduction=reduction))
    value = loss(logits, BOXES, **PLACE)
    outer = torch.arange(1.0, value.numel() + 1, dtype=torch.float64).reshape(value.shape)
    (plain,) = torch.autograd.grad(value, logits, torch.ones_like(value), retain_graph=True)
    (scaled,) = torch.autograd.grad(value, logits, outer)
    torch.testing.assert_close(scaled, plain * outer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_flat_logits_of_every_dtype(dtype: torch.dtype) -> None:
    logits = some_logits(dtype, (3, 20)).requires_grad_()
    value = CassLoss(PATCH, LossSpec(kind="bce"))(logits, BOXES, **PLACE)
    assert value.dtype == torch.float32
    value.backward()
    assert logits.grad is not None
    assert (logits.grad.dtype, logits.grad.shape) == (dtype, (3, 20))
    np.testing.assert_allclose(
        value.item(), expected_losses("bce", logits.detach().double()).mean(), rtol=1e-5
    )


def test_gradient_of_half_logits_does_not_underflow() -> None:
    # The mean over 2^20 patches at logit -5 on a target of 0: each gradient is p / 2^20 = 6.4e-9,
    # which is 0 in float16; the loss scaler's 2^16 must be multiplied in first.
    logits = torch.full((1, 1024, 1024), -5, dtype=torch.float16, requires_grad=True)
    loss = CassLoss(MaskSpec(patch_size=1), LossSpec(kind="bce"))
    (loss(logits, [[]], (1024, 1024), (1024, 1024)) * 2**16).backward()
    assert logits.grad is not None
    p = 1 / (1 + np.exp(5))
    assert np.float16(p / 2**20) == 0
    assert (logits.grad == np.float16(p / 2**4).item()).all()


@pytest.mark.parametrize(("given", "divisor"), [(None, 3), (12, 12), (0, 1), (1.5, 1.5)])
def test_num_boxes(given: float | None, divisor: float) -> None:
    logits = some_logits().requires_grad_()
    loss = CassLoss(PATCH, LossSpec(kind="bce", reduction="per_object"))
    value = loss(logits, BOXES, **PLACE, num_boxes=given)
    total = expected_losses("bce", logits.detach()).sum()
    assert value.item() == pytest.approx(total / divisor, rel=1e-5)
    value.backward()
    summed = some_logits().requires_grad_()
    CassLoss(PATCH, LossSpec(kind="bce", reduction="sum"))(summed, BOXES, **PLACE).backward()
    assert logits.grad is not None
    assert summed.grad is not None
    torch.testing.assert_close(logits.grad, summed.grad / divisor)


def test_per_object_without_boxes_divides_by_one() -> None:
    logits = torch.zeros(1, 4, 5)
    value = CassLoss(PATCH, LossSpec(kind="bce", reduction="per_object"))(logits, [[]], **PLACE)
    assert value.item() == pytest.approx(20 * np.log(2), rel=1e-6)


def test_every_form_of_boxes_is_the_same() -> None:
    logits = some_logits(torch.float32)
    loss = CassLoss(PATCH)
    arrays = [np.array(b, np.float32).reshape(-1, 4) for b in BOXES]
    expected = loss(logits, BOXES, **PLACE)
    forms = [
        arrays,
        [torch.from_numpy(a) for a in arrays],
        BoxBatch.from_list(arrays),
        BoxBatch.from_list([torch.from_numpy(a) for a in arrays]),
    ]
    for boxes in forms:
        assert torch.equal(loss(logits, boxes, **PLACE), expected)


def test_no_gradient_into_boxes() -> None:
    boxes = [torch.tensor(b).reshape(-1, 4).float().requires_grad_() for b in BOXES]
    logits = some_logits().requires_grad_()
    CassLoss(PATCH)(logits, boxes, **PLACE).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert all(b.grad is None for b in boxes)
    assert not CassLoss(PATCH)(some_logits(), boxes, **PLACE).requires_grad


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("after_backward", [False, True])
@pytest.mark.parametrize("from_boxes", [True, False])
def test_a_second_derivative_is_refused(from_boxes: bool, after_backward: bool, power: int) -> None:
    """Whatever the outer gradient is: where it is one, nothing else would show that it is wrong."""
    weight = torch.eye(20, requires_grad=True)
    logits = some_logits(torch.float32, (3, 20)) @ weight
    if from_boxes:
        value = CassLoss(PATCH)(logits, BOXES, **PLACE) ** power
    else:
        value = MaskLoss()(logits, the_mask()) ** power
    (plain,) = torch.autograd.grad(value, weight, retain_graph=True)
    if after_backward:
        value.backward(retain_graph=True)
    (grad,) = torch.autograd.grad(value, weight, create_graph=True)
    torch.testing.assert_close(grad, plain)
    with pytest.raises(RuntimeError, match="can be differentiated only once"):
        (value + grad.pow(2).sum()).backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # its own
@pytest.mark.parametrize("from_boxes", [True, False])
def test_a_forward_derivative_is_refused(from_boxes: bool) -> None:
    """torch would take it for 0."""
    mask = the_mask()

    def loss(logits: Tensor) -> Any:
        return CassLoss(PATCH)(logits, BOXES, **PLACE) if from_boxes else MaskLoss()(logits, mask)

    logits = some_logits()
    with pytest.raises(RuntimeError, match="have no forward-mode derivative"):
        torch.func.jvp(loss, (logits,), (logits,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, logits)
        with pytest.raises(RuntimeError, match="have no forward-mode derivative"):
            loss(dual)
        loss(logits)


def test_repr() -> None:
    shown = repr(CassLoss(MaskSpec(patch_size=7), LossSpec(kind="varifocal")))
    assert shown.startswith("CassLoss(MaskSpec(patch_size=7, ")
    assert "LossSpec(kind='varifocal', " in shown
    assert repr(MaskLoss(LossSpec(kind="bce"))).startswith("MaskLoss(LossSpec(kind='bce'")


@pytest.mark.parametrize("kind", ["mse", "bce", "quality_focal"])
def test_descent_leads_to_the_mask(kind: Any) -> None:
    # These three have their least value at p = y; `focal` and the others do not.
    logits = torch.zeros(3, 4, 5, requires_grad=True)
    loss = CassLoss(PATCH, LossSpec(kind=kind, reduction="sum"))
    optimizer = torch.optim.SGD([logits], lr=1.0)
    target = torch.from_numpy(generate_mask(BOXES, **PLACE, spec=PATCH))
    values, errors = [], []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(logits, BOXES, **PLACE)
        value.backward()
        optimizer.step()
        values.append(value.item())
        errors.append((logits.detach().sigmoid() - target).abs().mean().item())
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.6 * values[0]
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"logits": np.zeros((3, 4, 5))}, "logits", "must be a torch tensor, got ndarray"),
        ({"logits": torch.zeros(3, 4, 5, dtype=torch.int32)}, "logits",
         "must have a dtype of float32, float16, bfloat16, float64, got int32"),
        ({"logits": torch.zeros(2, 4, 5)}, "logits",
         "have the shape [2, 4, 5], the grid is [3, 4, 5] or [3, 20]: feature_map (8, 10) with "
         "mask_spec.patch_size 2"),
        ({"logits": torch.zeros(3, 8, 10)}, "logits",
         "have the shape [3, 8, 10], the grid is [3, 4, 5] or [3, 20]: feature_map (8, 10) with "
         "mask_spec.patch_size 2; these would fit mask_spec.patch_size 1"),
        ({"logits": torch.zeros(3, 6)}, "logits",
         "have the shape [3, 6], the grid is [3, 4, 5] or [3, 20]: feature_map (8, 10) with "
         "mask_spec.patch_size 2; these would fit mask_spec.patch_size 4"),
        ({"feature_map": []}, "feature_map", "must have at least one level"),
        ({"image_size": (0, 32)}, "image_size",
         "must be two whole numbers from 1 to 2147483647, got (0, 32)"),
        ({"boxes": [[(4, 4, 2, 8)], [], []]}, "boxes[0][0].x2",
         "is smaller than x1; boxes are x1, y1, x2, y2"),
        ({"num_boxes": -1}, "num_boxes", "must be a number of at least 0, got -1"),
    ],
)  # fmt: skip
def test_bad_arguments(change: dict[str, Any], field: str, reason: str) -> None:
    arguments = {"logits": torch.zeros(3, 4, 5), "boxes": BOXES, **PLACE} | change
    with pytest.raises(InvalidRequest) as caught:
        CassLoss(PATCH)(**arguments)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_sum_above_1_is_no_target() -> None:
    loss = CassLoss(MaskSpec(patch_size=1, merge="sum"))
    box = [0.0, 0.0, 32.0, 32.0]
    logits = torch.zeros(1, 4, 4)
    assert loss(logits, [[box]], (32, 32), (4, 4)).item() > 0
    with pytest.raises(InvalidRequest, match=r"^mask_spec.merge: sum gave a target above 1"):
        loss(logits, [[box, box]], (32, 32), (4, 4))


# --- MaskLoss ----------------------------------------------------------------------------------


def the_mask(**options: Any) -> Tensor:
    """Of the boxes of these tests."""
    boxes = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in BOXES]
    mask: Tensor = generate_mask(boxes, spec=PATCH, **PLACE, **options)
    return mask


@every_kind
@every_reduction
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_mask_gives_what_its_boxes_give(kind: Any, reduction: Any, dtype: torch.dtype) -> None:
    spec = LossSpec(kind=kind, reduction=reduction)
    first, second = (some_logits(dtype).requires_grad_() for _ in range(2))
    from_boxes = CassLoss(PATCH, spec)(first, BOXES, **PLACE)
    from_mask = MaskLoss(spec)(second, the_mask(), num_boxes=3)
    for value in (from_boxes, from_mask):
        (value.sum() * 3).backward()
    assert from_mask.dtype == from_boxes.dtype
    assert torch.equal(from_mask, from_boxes)
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)


def test_a_mask_of_bytes_and_flat_logits() -> None:
    logits = some_logits(torch.float32, (3, 20))
    value = MaskLoss(LossSpec(kind="bce"))(logits, the_mask(dtype="uint8"))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, (the_mask() * 255).round().flatten(1) / 255
    )
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.zeros((3, 4, 5)), the_mask()), "logits: must be a torch tensor, got ndarray"),
        ((some_logits(), the_mask()[:2]),
         "target: has the shape [2, 4, 5], the logits have [3, 4, 5]"),
        ((some_logits(), the_mask() * 2), "target[0][0][0]: is not in [0, 1] ("),
        ((some_logits(), the_mask().numpy()),
         "target: must be of the same kind (NumPy or torch) as the logits"),
    ],
)  # fmt: skip
def test_bad_masks(arguments: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MaskLoss()(*arguments)
    assert str(caught.value).startswith(error)


def test_per_object_needs_the_number_of_boxes() -> None:
    with pytest.raises(InvalidRequest, match=r"^num_boxes: is needed"):
        MaskLoss(LossSpec(reduction="per_object"))(some_logits(), the_mask())
