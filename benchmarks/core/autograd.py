"""The losses in plain torch, differentiated by autograd: what `compute_loss` is timed against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from cass_core import LossSpec


def autograd_loss(logits: Tensor, target: Tensor, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Mean loss over all patches and its gradient, by a forward and a backward pass.

    Args:
        logits: of any shape, ``requires_grad`` set.
        target: values in [0, 1] of the same shape.
        spec: the kind and its options; the formulas are in the docstring of `LossSpec`.
    """
    loss = _per_patch(logits, target, spec).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def _per_patch(s: Tensor, y: Tensor, spec: LossSpec) -> Tensor:
    if spec.kind == "bce":
        # Where the formula has the whole cross-entropy, torch's own is faster than two logsigmoid.
        return binary_cross_entropy_with_logits(s, y, reduction="none")
    p = s.sigmoid()
    if spec.kind == "mse":
        return (p - y) ** 2
    if spec.kind == "quality_focal":
        bce = binary_cross_entropy_with_logits(s, y, reduction="none")
        return (y - p).abs() ** spec.gamma * bce
    if spec.kind == "varifocal":
        bce = binary_cross_entropy_with_logits(s, y, reduction="none")
        # At y = 0 the cross-entropy is -log(1 - p).
        return torch.where(y > 0, y, spec.weight * p**spec.gamma) * bce
    log_p, log_q = logsigmoid(s), logsigmoid(-s)
    if spec.kind == "focal":
        return -((1 - p) ** spec.alpha) * log_p * y - p**spec.beta * log_q * (1 - y)
    positive = -((1 - p) ** spec.alpha) * log_p
    negative = -((1 - y) ** spec.beta) * p**spec.alpha * log_q
    return torch.where(y == 1, positive, negative)
