"""LossResult and HostLoss, and host arrays in the form that the caller gave the inputs in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cass_core.arrays import Array, Tensorlike, from_host, is_tensor
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.levels import in_form_of
from cass_core.specs import LossSpec, normalizer_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LossResult:
    """What `compute_loss` returns.

    Attributes:
        loss: the reduced loss, a scalar of the kind and place of the logits; for
            ``reduction="none"`` the loss of each patch, in the logits' shape. float32, or
            float64 for float64 logits.
        sum: the sum over all patches, a scalar of the same dtype.
        normalizer: what the sum was divided by; 1 for ``none`` and ``sum``. Data-parallel
            training adds ``sum`` and ``normalizer`` over its processes and divides itself. For
            the ``mean`` with weights it is their sum: of CUDA logits a float64 scalar there.
        grad: gradient of the reduced loss (for ``none``, of the sum) with respect to the
            logits, of their shape and dtype; None unless requested.
    """

    loss: Any
    sum: Any
    normalizer: Any
    grad: Any = None


@dataclass(frozen=True, slots=True)
class HostLoss:
    """A `LossResult` in host arrays: what an answer carries."""

    loss: Array
    total: float
    normalizer: float
    grad: Array | None

    def wrap(self, like: Tensorlike, logits_dtype: str) -> LossResult:
        """In the form that `compute_loss` returns for these logits."""
        tensors = is_tensor(like)
        loss_dtype = self.loss.dtype.name
        total = np.asarray(self.total, self.loss.dtype)

        def place(array: Array, name: str) -> Any:
            value = from_host(array, name, as_tensor=tensors)
            if is_tensor(value) and is_tensor(like):
                return value.to(like.device)
            return value[()] if value.ndim == 0 else value  # a NumPy scalar

        return LossResult(
            loss=place(self.loss, loss_dtype),
            sum=place(total, loss_dtype),
            normalizer=self.normalizer,
            grad=None if self.grad is None else place(self.grad, logits_dtype),
        )


def of_levels(found: LossResult, logits: Any, spec: LossSpec) -> LossResult:
    """A result of the patches of all levels in a row, in the form that the logits were given in."""
    return replace(
        found,
        loss=in_form_of(logits, found.loss) if spec.reduction == "none" else found.loss,
        grad=None if found.grad is None else in_form_of(logits, found.grad),
    )


def divisor_of(inputs: LossInputs) -> float:
    """What the sum of a loss is divided by; a mean's weights that boxes make are not counted."""
    if inputs.weights is not None and inputs.spec.reduction == "mean":
        return float(inputs.weights.sum(dtype=np.float64))
    return normalizer_of(inputs.spec, inputs.logits.size, inputs.num_boxes)


def wrap_masks(
    inputs: MaskInputs,
    masks: Sequence[Array],
    owners: Sequence[Array],
    weights: Sequence[Array] = (),
) -> Any:
    """Host arrays in the form that `generate_mask` returns for these inputs."""
    if not is_tensor(inputs.boxes.xyxy):
        return arrange_masks(inputs, masks, owners, weights)
    device = inputs.boxes.xyxy.device

    def place(array: Array, name: str) -> Tensorlike:
        return cast("torch.Tensor", from_host(array, name, as_tensor=True)).to(device)

    return arrange_masks(
        inputs,
        [place(mask, inputs.dtype) for mask in masks],
        [place(owner, "int32") for owner in owners],
        [place(of_map, "float32") for of_map in weights],
    )


def arrange_masks(
    inputs: MaskInputs, masks: Sequence[Any], owners: Sequence[Any], weights: Sequence[Any] = ()
) -> Any:
    """One mask or a list, alone or in a tuple with the owners and the weights."""
    if not inputs.return_owner and inputs.weighting is None:
        return masks[0] if inputs.single else masks
    wanted = True, inputs.return_owner, inputs.weighting is not None
    parts = itertools.compress((masks, owners, weights), wanted)
    return tuple(part[0] if inputs.single else part for part in parts)
