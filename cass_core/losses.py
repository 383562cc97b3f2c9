"""compute_loss: loss and gradient of patch logits against a soft target, in closed form."""

from __future__ import annotations

from typing import Any

from cass_core.arrays import is_tensor
from cass_core.checks.logits import check_logits, check_loss_weights, check_target
from cass_core.cpu.backend import compute_losses
from cass_core.inputs import LossInputs, check_spec
from cass_core.levels import flat_levels, is_levels
from cass_core.results import LossResult, of_levels
from cass_core.specs import LossSpec, check_flag


def compute_loss(
    logits: Any,
    target: Any,
    spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
    *,
    weights: Any = None,
    num_boxes: float | None = None,
    return_grad: bool = False,
) -> LossResult:
    """Loss of patch logits against a soft target, with its gradient if requested.

    The formulas of `LossSpec` are computed from the logits (log sigmoid), in float32 for
    float16 and bfloat16, and stay finite for any finite logit; a logit that is not finite gives
    NaN. The gradient is the closed form; it equals autograd's and does not need it. For a
    differentiable module see `CassLoss`.

    Args:
        logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``, any real dtype from float16 to float64;
            NumPy or torch. Of several levels a list with one of these a level, or one row
            ``[B, n]`` of all levels' patches; targets and weights likewise, and losses and
            gradients come in the logits' form.
        target: values in [0, 1] of the same kind and shape (or with the grid flattened where
            the logits are not); uint8 stands for value / 255. On CUDA a value outside [0, 1]
            gives NaN, as a logit that is not finite does: an error would wait for the device.
        spec: which loss and reduction; see `LossSpec`.
        weights: finite numbers of at least 0, one a patch, of the target's kind and shape; the
            ``mean`` is then over their sum. Where one is 0, loss and gradient are 0 whatever the
            logit is, infinite or NaN included.
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
    if any(map(is_levels, (logits, target, weights))):
        row, target, weights = flat_levels(logits, target=target, weights=weights)
        found = compute_loss(
            row, target, spec, weights=weights, num_boxes=num_boxes, return_grad=return_grad
        )
        return of_levels(found, logits, spec)
    if is_tensor(logits) and logits.device.type == "cuda":
        from cass_core.ops.backend import take_loss

        check_spec(spec)
        logits = check_logits(logits)
        target = check_target(target, logits)
        wanted = check_flag(return_grad, "return_grad")
        if weights is not None:
            weights = check_loss_weights(weights, logits)
        return take_loss(logits, target, spec, num_boxes, wanted, weights)
    inputs = LossInputs.check(logits, target, spec, num_boxes, return_grad, weights=weights)
    return compute_losses(inputs).wrap(logits, inputs.logits_dtype)
