"""The three ways a loss is taken, behind one form: NumPy, torch, and the GPU's kernels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pytest
import torch

from cass_core import LossResult, LossSpec, compute_loss
from tests.support.interpreted import kernels

KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal", "soft_focal")


class TakeLoss(Protocol):
    """Array-like in, a result with NumPy in its fields and the gradient out."""

    def __call__(
        self,
        logits: Any,
        target: Any,
        spec: LossSpec,
        num_boxes: float | None = None,
        weights: Any = None,
    ) -> LossResult:
        """The result for these logits, target and weights."""


def by_numpy(
    logits: Any,
    target: Any,
    spec: LossSpec,
    num_boxes: float | None = None,
    weights: Any = None,
) -> LossResult:
    """By `compute_loss` on NumPy arrays."""
    arrays = np.asarray(logits), np.asarray(target)
    given = None if weights is None else np.asarray(weights, np.float32)
    return compute_loss(*arrays, spec, weights=given, num_boxes=num_boxes, return_grad=True)


def by_torch(
    logits: Any,
    target: Any,
    spec: LossSpec,
    num_boxes: float | None = None,
    weights: Any = None,
) -> LossResult:
    """By `compute_loss` on CPU tensors."""
    return _to_numpy(
        compute_loss(
            torch.as_tensor(np.asarray(logits)),
            torch.as_tensor(np.asarray(target)),
            spec,
            weights=_weights(weights),
            num_boxes=num_boxes,
            return_grad=True,
        )
    )


def by_kernels(
    logits: Any,
    target: Any,
    spec: LossSpec,
    num_boxes: float | None = None,
    weights: Any = None,
) -> LossResult:
    """By the kernels that a GPU would run."""
    from cass_core.ops.backend import take_loss

    s, y = (torch.as_tensor(np.asarray(value)) for value in (logits, target))
    with kernels():
        return _to_numpy(take_loss(s, y, spec, num_boxes, True, _weights(weights)))


def _weights(weights: Any) -> torch.Tensor | None:
    return None if weights is None else torch.as_tensor(np.asarray(weights, np.float32))


def _to_numpy(result: LossResult) -> LossResult:
    return LossResult(
        loss=result.loss.numpy(),
        sum=result.sum.numpy(),
        normalizer=float(result.normalizer),
        grad=result.grad.numpy(),
    )


all_paths = pytest.mark.parametrize("take", [by_numpy, by_torch, by_kernels])
"""Runs a test with each of them as ``take``."""
