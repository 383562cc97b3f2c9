"""The loss kernels by the interpreter, beside the compiled loops: what `make test` has of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, LossSpec, MaskSpec, compute_loss, generate_mask
from cass_core.inputs import MaskInputs
from cass_core.ops.backend import take_loss
from cass_core.ops.spec_args import kernel_scale
from tests.core.support.loss_paths import KINDS, by_kernels
from tests.support.interpreted import kernels

SIZE, CELLS = (160, 560), (20, 70)  # two by three tiles, of which the boxes reach two
BOXES = [[[20, 30, 60, 90], [30, 40, 90, 150]]]
LOGITS = np.random.default_rng(2).normal(0, 3, (1, *CELLS)).astype(np.float32)
PER_PATCH = LossSpec(reduction="none")


def from_boxes(spec: MaskSpec, loss_spec: LossSpec) -> Any:
    """Loss and gradient of `LOGITS`, whose target the kernel makes."""
    boxes = BoxBatch.from_list([torch.tensor(BOXES[0], dtype=torch.float32)])
    inputs = MaskInputs.check(boxes, SIZE, [CELLS], spec, "float32", False)
    with kernels():
        return take_loss(torch.from_numpy(LOGITS), inputs, loss_spec, None, True)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_with_boxes_and_without(kind: Any) -> None:
    mask = np.asarray(generate_mask(BOXES, SIZE, CELLS, MaskSpec()))
    reached = np.add.reduceat(mask.any(axis=(0, 1)), [0, 32, 64]) > 0
    assert reached.tolist() == [True, False, False]
    spec = PER_PATCH.replace(kind=kind)
    expected = compute_loss(LOGITS, mask, spec, return_grad=True)
    found = from_boxes(MaskSpec(), spec)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_a_sum_of_boxes_beyond_1_is_no_target() -> None:
    spec = MaskSpec(merge="sum")
    mask = np.asarray(generate_mask(BOXES, SIZE, CELLS, spec))
    assert 0 < (mask > 1).sum() < mask.size
    found = from_boxes(spec, PER_PATCH)
    assert found.loss.isnan().tolist() == (mask > 1).tolist()
    assert found.grad.isnan().tolist() == (mask > 1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_target(kind: Any) -> None:
    target = np.array([0.5, -0.1, 1.1, np.nan, 1.0, 0.0], np.float32)
    found = by_kernels(np.zeros(6, np.float32), target, PER_PATCH.replace(kind=kind))
    expected = [False, True, True, True, False, False]
    assert np.isnan(found.loss).tolist() == expected
    assert np.isnan(found.grad).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_uint8_targets_are_divided_as_numpy_divides_them(kind: Any) -> None:
    target, logits = np.arange(256, dtype=np.uint8), np.linspace(-4, 4, 256, dtype=np.float32)
    spec = PER_PATCH.replace(kind=kind)
    found = by_kernels(logits, target, spec)
    expected = by_kernels(logits, target.astype(np.float32) / np.float32(255), spec)
    np.testing.assert_array_equal(found.loss, expected.loss)
    np.testing.assert_array_equal(found.grad, expected.grad)


@pytest.mark.parametrize("seed", range(20))
def test_cells_a_pixel_are_those_of_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells, pixels = rng.integers(1, 2**31, (2, 2)).tolist()
    parts = kernel_scale(cells, pixels)
    assert [float(np.float32(part)) for part in parts] == list(parts)
    y, x = (sum(np.float64(part) for part in parts[i : i + 3]) for i in (0, 3))
    assert [y, x] == [cells[0] / pixels[0], cells[1] / pixels[1]]
