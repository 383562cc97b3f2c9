"""The torch operators: registered, differentiable, and alike on the host and in kernels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cass_core import (
    BoxBatch,
    CassError,
    CassLoss,
    LossSpec,
    MaskLoss,
    MaskSpec,
    compute_loss,
    generate_mask,
)
from cass_core.ops import registration
from cass_core.ops.backend import take_loss, to_device
from cass_core.ops.spec_args import loss_options, loss_spec, mask_options, mask_spec
from cass_core.synthetic import street_boxes
from tests.core.support.loss_paths import KINDS
from tests.support.interpreted import kernels

SIZE, CELLS = (96, 160), (20, 37)  # a tile and a bit each way
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=5), None]
MASK = MaskSpec(patch_size=1)
OPERATORS = torch.ops.cass


@pytest.fixture(params=["host", pytest.param("kernels", marks=pytest.mark.slow)], autouse=True)
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here runs by the compiled loops and by the kernels."""
    if request.param == "host":
        yield "host"
        return
    with kernels():
        yield "kernels"


def some_logits(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, *CELLS, generator=generator).mul(3).to(dtype)


def arguments(logits: Tensor, spec: LossSpec = LossSpec()) -> tuple[Any, ...]:  # noqa: B008
    """Those of ``boxes_loss``."""
    placed = to_device(BoxBatch.from_list(BOXES), np.array([SIZE], np.float64), logits.device)
    wanted = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        logits,
        *placed,
        list(CELLS),
        *mask_options(MASK),
        *loss_options(spec),
        float(logits.numel()),
        wanted,
    )


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck_of_losses(reduction: Any) -> None:
    logits = some_logits().requires_grad_()
    inputs = arguments(logits, LossSpec(reduction=reduction))
    torch.library.opcheck(OPERATORS.boxes_loss.default, inputs)
    target = torch.rand(3, *CELLS)
    torch.library.opcheck(OPERATORS.loss.default, (logits, target, *inputs[-4:]))
    weights = torch.rand(3, *CELLS)
    torch.library.opcheck(OPERATORS.weighted_loss.default, (logits, target, weights, *inputs[-4:]))


@pytest.mark.slow
@pytest.mark.timeout(300)  # the interpreter takes a minute of a core
def test_opcheck_of_masks_and_scale() -> None:
    xyxy, offsets = arguments(some_logits())[1:3]
    sizes = torch.tensor([SIZE] * 3, dtype=torch.float64)
    for given, owner in ((None, True), (sizes, False)):
        inputs = (xyxy, offsets, given, [*SIZE], [*CELLS, 3, 4], *mask_options(MASK))
        torch.library.opcheck(OPERATORS.masks.default, (*inputs, torch.float16, owner))
        regions = torch.tensor([[0.0, 0, 100, 90]] * 3), xyxy[:2], torch.tensor([0, 1, 1, 2]).int()
        for weighting in (
            (*regions, torch.rand(len(xyxy)), True, 0.25),
            (None, None, None, None, False, 1.0),
        ):
            given_all = (*inputs, torch.float16, owner, *weighting)
            torch.library.opcheck(OPERATORS.weighted_masks.default, given_all)
    torch.library.opcheck(OPERATORS.scale_.default, (torch.rand(3, 4), torch.tensor(2.0)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
def test_from_boxes_as_from_their_mask(kind: Any, reduction: Any) -> None:
    spec = LossSpec(kind=kind, reduction=reduction)
    logits = some_logits().requires_grad_()
    value = CassLoss(MASK, spec)(logits, BOXES, SIZE, CELLS)
    value.sum().backward()
    target = torch.from_numpy(generate_mask(BOXES, SIZE, CELLS, MASK))
    expected = compute_loss(logits, target, spec, num_boxes=12, return_grad=True)
    torch.testing.assert_close(value, expected.loss, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad, expected.grad, rtol=2e-4, atol=2e-6)


def test_vmap() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.rand(2, 3, 4, 5, generator=generator)
    found = torch.vmap(MaskLoss(LossSpec(kind="bce")))(logits, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none"
    )
    torch.testing.assert_close(found, expected.mean((1, 2, 3)))


def test_backward_twice_and_with_a_factor() -> None:
    """The first backward scales the gradient in its place: the second must not see that."""
    logits = some_logits().requires_grad_()
    value = CassLoss(MASK)(logits, BOXES, SIZE, CELLS)
    (plain,) = torch.autograd.grad(value, logits, retain_graph=True)
    plain = plain.clone()
    (tripled,) = torch.autograd.grad(value, logits, torch.tensor(3.0), retain_graph=True)
    torch.testing.assert_close(tripled, 3 * plain)
    (zero,) = torch.autograd.grad(value, logits, torch.tensor(0.0), retain_graph=True)
    assert not zero.any()
    (again,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert plain.abs().max() > 0


def test_without_a_gradient() -> None:
    logits = some_logits().requires_grad_()
    with torch.no_grad():
        assert not CassLoss(MASK)(logits, BOXES, SIZE, CELLS).requires_grad
    inputs = (*arguments(logits)[:-1], None)
    with pytest.raises(RuntimeError, match="without grad_dtype"):
        OPERATORS.boxes_loss(*inputs)[0].backward()


@pytest.mark.parametrize("boxes", [BOXES, BoxBatch.from_list(BOXES).to("cpu")])
def test_compiled(boxes: Any) -> None:
    """With placed boxes the whole step is one graph."""
    torch.compiler.reset()
    loss = CassLoss(MASK)
    eager, traced = some_logits().requires_grad_(), some_logits().requires_grad_()
    expected = loss(eager, boxes, SIZE, CELLS)
    (expected * 3).backward()
    is_batch = isinstance(boxes, BoxBatch)
    step = torch.compile(loss, backend="aot_eager", fullgraph=is_batch)
    value = step(traced, boxes, SIZE, CELLS)
    (value * 3).backward()
    assert torch.equal(value, expected)
    torch.testing.assert_close(traced.grad, eager.grad)


def test_autocast() -> None:
    """Logits of a layer that autocast runs in half precision."""
    layer = torch.nn.Linear(4, CELLS[0] * CELLS[1])
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(torch.ones(3, 4))
        value = CassLoss(MASK)(logits, BOXES, SIZE, CELLS)
    assert logits.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    value.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


def test_several_maps_and_image_sizes_in_one_call() -> None:
    """As one call for each; the sizes of the images differ."""
    sizes = [(96, 160), (120, 160), (96, 200)]
    placed = to_device(BoxBatch.from_list(BOXES), np.array(sizes, np.float64), torch.device("cpu"))
    maps = [(3, 4), CELLS, (40, 33)]
    flat, owners = OPERATORS.masks(
        *placed, [side for pair in maps for side in pair], *mask_options(MASK), torch.float32, True
    )
    masks = generate_mask(BOXES, sizes, maps, MASK, return_owner=True)
    expected, expected_owners = (np.concatenate([a.ravel() for a in part]) for part in masks)
    np.testing.assert_allclose(flat.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(owners.numpy(), expected_owners)


def test_more_boxes_than_are_looked_at_together() -> None:
    """100 boxes per image, in any order of the tiles that they reach."""
    boxes = street_boxes(2, 100, image_size=SIZE, seed=8)
    placed = to_device(BoxBatch.from_list(boxes), np.array([SIZE], np.float64), torch.device("cpu"))
    flat, owners = OPERATORS.masks(*placed, [*CELLS], *mask_options(MASK), torch.float32, True)
    mask, owner = generate_mask(boxes, SIZE, CELLS, MASK, return_owner=True)
    np.testing.assert_allclose(flat.numpy(), mask.ravel(), atol=1e-6)
    np.testing.assert_array_equal(owners.numpy(), owner.ravel())
    assert owner.max() > 64


def test_bad_targets_become_nan(where: str) -> None:
    if where == "host":
        pytest.skip("the compiled loops raise instead")
    target = torch.tensor([0.5, -0.1, 1.1, float("nan"), 1.0])
    result = take_loss(torch.zeros(5), target, LossSpec(reduction="none"), None, True)
    assert result.loss.isnan().tolist() == [False, True, True, True, False]
    assert result.grad.isnan().tolist() == [False, True, True, True, False]
    assert result.sum.isnan()


def test_the_same_bits_every_time() -> None:
    first, second = (OPERATORS.boxes_loss(*arguments(some_logits())) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_empty_batch() -> None:
    logits = torch.zeros(0, *CELLS, requires_grad=True)
    value = CassLoss(MASK)(logits, [], SIZE, CELLS)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None


@pytest.mark.parametrize(
    "spec",
    [
        MaskSpec.baseline(),
        MaskSpec(base_sigma=(0.4, 0.9), temperature="size_scaled", merge="sum"),
        MaskSpec(level_ranges=((0, 64), (64, float("inf")))),
    ],
)
def test_mask_options_keep_everything(spec: MaskSpec) -> None:
    made = mask_spec(*mask_options(spec))
    assert mask_options(made) == mask_options(spec)
    assert made.replace(base_sigma=spec.base_sigma) == spec


def test_loss_options_keep_everything() -> None:
    spec = LossSpec(kind="varifocal", alpha=1, beta=3, gamma=1.5, weight=0.5, reduction="none")
    assert loss_spec(*loss_options(spec)) == spec
    clamped = LossSpec(kind="soft_focal", reduction="mean", logit_clamp=2.5)
    assert loss_spec(*loss_options(clamped)) == clamped


def test_cuda_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    # What an earlier call found is kept.
    monkeypatch.setattr(registration, "_launches", registration._launches.__wrapped__)
    for name in ("losses", "masks", "scale", "tiles", "geometry"):
        monkeypatch.delitem(sys.modules, f"cass_core.ops.{name}", raising=False)
        monkeypatch.delattr(f"cass_core.ops.{name}", raising=False)
    with pytest.raises(CassError, match=r"^CUDA tensors need Triton"):
        registration.CUDA["masks"]()
