"""compute_loss: loss and gradient of patch logits against a soft target, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cass_core.arrays import (
    Array,
    Tensorlike,
    from_host,
    is_tensor,
    storage_dtype,
)
from cass_core.errors import InvalidRequest
from cass_core.loss_inputs import (
    LossInputs,
    check_logits,
    check_spec,
    check_target,
    normalizer_of,
)
from cass_core.masks import compute_masks
from cass_core.specs import LossSpec


@dataclass(frozen=True, slots=True)
class LossResult:
    """What `compute_loss` returns.

    Attributes:
        loss: the reduced loss, a scalar of the kind and place of the logits; for
            ``reduction="none"`` the loss of each patch, in the logits' shape. float32, or
            float64 for float64 logits.
        sum: the sum over all patches, a scalar of the same dtype.
        normalizer: what the sum was divided by; 1 for ``none`` and ``sum``. Data-parallel
            training adds ``sum`` and ``normalizer`` over its processes and divides itself.
        grad: gradient of the reduced loss (for ``none``, of the sum) with respect to the
            logits, of their shape and dtype; None unless asked for.
    """

    loss: Any
    sum: Any
    normalizer: float
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


def compute_losses(inputs: LossInputs, checkpoint: Callable[[], None] | None = None) -> HostLoss:
    """Loss, sum, normaliser and gradient of checked inputs, on the CPU.

    Args:
        inputs: the request.
        checkpoint: called between the parts of a long computation; what it raises ends it.

    Raises:
        InvalidRequest: the target leaves [0, 1].
    """
    from cass_core.cpu.run import take_loss

    target, target_dtype = inputs.target, inputs.target_dtype
    if inputs.mask is not None:
        masks, _ = compute_masks(inputs.mask, checkpoint)
        target, target_dtype = masks[0], inputs.mask.dtype
        if inputs.mask.spec.merge == "sum":
            check_summed(float(target.max(initial=0)))
    assert target is not None  # by LossInputs.checked
    spec = inputs.spec
    normalizer = normalizer_of(spec, inputs.logits.size, inputs.num_boxes)
    real = np.float64 if inputs.logits_dtype == "float64" else np.float32
    shape, per_patch = inputs.logits.shape, spec.reduction == "none"
    loss = np.empty(shape if per_patch else (), real)
    grad = np.empty(shape, storage_dtype(inputs.logits_dtype)) if inputs.return_grad else None
    total, target_good = take_loss(
        inputs.logits,
        inputs.logits_dtype,
        target,
        target_dtype,
        spec,
        1.0 / normalizer,
        losses=loss if per_patch else None,
        grad=grad,
        checkpoint=checkpoint,
    )
    if not target_good:
        refuse_bad_target(target, target_dtype)
    if not per_patch:
        loss = np.asarray(total / normalizer, real)
    return HostLoss(loss, total, normalizer, grad)


def check_summed(largest: float) -> None:
    """Refuse a target made with ``merge="sum"`` by its largest value.

    Raises:
        InvalidRequest: it is above 1.
    """
    if largest > 1:
        raise InvalidRequest("mask_spec.merge", "sum gave a target above 1; use clipped_sum")


def refuse_bad_target(target: Array, target_dtype: str) -> None:
    """Name the first target value outside [0, 1], if there is one.

    Raises:
        InvalidRequest: there is.
    """
    from cass_core.cpu.convert import widen

    values = widen(np.ascontiguousarray(target), target_dtype)
    good = (values >= 0) & (values <= 1)
    if good.all():
        return
    index = np.unravel_index(int(np.argmin(good)), values.shape)
    place = "".join(f"[{i}]" for i in index)
    raise InvalidRequest(f"target{place}", f"is not in [0, 1] ({values[index]})")


def compute_loss(
    logits: Any,
    target: Any,
    spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
    *,
    num_boxes: float | None = None,
    return_grad: bool = False,
) -> LossResult:
    """Loss of patch logits against a soft target, with its gradient if asked for.

    The formulas of `LossSpec` are computed from the logits (log sigmoid), in float32 for
    float16 and bfloat16, and stay finite for any finite logit; a logit that is not finite gives
    NaN. The gradient is the closed form; it equals autograd's and does not need it. For a
    differentiable module see `CassLoss`.

    Args:
        logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``, any real dtype from float16 to float64;
            NumPy or torch.
        target: values in [0, 1] of the same kind and shape (or with the grid flattened where
            the logits are not); uint8 stands for value / 255. On CUDA a value outside [0, 1]
            gives NaN, as a logit that is not finite does: an error would wait for the device.
        spec: which loss and reduction; see `LossSpec`.
        num_boxes: number of boxes in the batch, for ``reduction="per_object"``; a fraction is
            fine, such as a mean over processes.
        return_grad: also return the gradient.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> result = compute_loss(np.zeros((1, 4), np.float32), np.array([[0.0, 0, 0, 1]]),
        ...                       LossSpec(kind="bce"), return_grad=True)
        >>> round(float(result.loss), 4), result.grad.tolist()
        (0.6931, [[0.125, 0.125, 0.125, -0.125]])
    """
    if is_tensor(logits) and logits.device.type == "cuda":
        from cass_core.ops.run import take_loss

        check_spec(spec)
        logits = check_logits(logits)
        target = check_target(target, logits)
        return take_loss(logits, target, spec, num_boxes, return_grad)
    inputs = LossInputs.check(logits, target, spec, num_boxes, return_grad)
    return compute_losses(inputs).wrap(logits, inputs.logits_dtype)
