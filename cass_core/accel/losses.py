"""Loss and gradient in torch operations, on whatever device the logits are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cass_core.errors import InvalidRequest
from cass_core.losses import LossResult, normalizer_of
from cass_core.specs import LossSpec


def take_loss(
    logits: Tensor,
    target: Tensor,
    spec: LossSpec,
    num_boxes: float | None,
    return_grad: bool,
    *,
    target_known_good: bool,
) -> LossResult:
    """`cass_core.compute_loss` for checked arguments; everything stays on the logits' device.

    Args:
        target_known_good: skip the search for values outside [0, 1], which waits for the device.
    """
    normalizer = normalizer_of(spec, logits.numel(), num_boxes)
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    s = logits.detach().to(real)
    y = target.detach().to(real).reshape(s.shape)
    if target.dtype == torch.uint8:
        y = y / 255
    if not target_known_good and bool(((y < 0) | (y > 1) | y.isnan()).any()):
        raise InvalidRequest("target", "has values outside [0, 1]")
    losses, slope = _loss_and_slope(s, y, spec)
    total = losses.sum(dtype=torch.float64)
    return LossResult(
        loss=losses if spec.reduction == "none" else (total / normalizer).to(real),
        sum=total.to(real),
        normalizer=normalizer,
        grad=(slope / normalizer).to(logits.dtype) if return_grad else None,
    )


def _loss_and_slope(s: Tensor, y: Tensor, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Loss of each patch and its derivative by the logit; formulas of `LossSpec`."""
    # s - s is 0, or NaN where s is not finite; exp(log p) keeps the digits that 1 - q loses.
    log_p, log_q = logsigmoid(s) + (s - s), logsigmoid(-s) + (s - s)
    p, q = log_p.exp(), log_q.exp()
    diff = torch.where(s >= 0, (1 - y) - q, p - y)
    alpha, beta, gamma = spec.alpha, spec.beta, spec.gamma
    if spec.kind == "mse":
        return diff * diff, 2 * diff * p * q
    if spec.kind == "focal":
        positive, negative = y * q**alpha, (1 - y) * p**beta
        return _focal(positive, negative, alpha, beta, p, q, log_p, log_q)
    if spec.kind == "cornernet":
        is_one = y == 1
        positive = torch.where(is_one, q**alpha, 0)
        negative = torch.where(is_one, 0, (1 - y) ** beta * p**alpha)
        return _focal(positive, negative, alpha, alpha, p, q, log_p, log_q)
    bce = -(y * log_p + (1 - y) * log_q)
    if spec.kind == "bce":
        return bce, diff
    if spec.kind == "quality_focal":
        size = diff.abs()
        # The slope of |p - y| ^ gamma; where it may not exist, at p = y, 0.
        slope = gamma * torch.where(size > 0, size ** (gamma - 1), 0) * diff.sign()
        return size**gamma * bce, slope * p * q * bce + size**gamma * diff
    background = spec.weight * p**gamma
    return (
        torch.where(y > 0, y * bce, -background * log_q),
        torch.where(y > 0, y * diff, background * (p - gamma * q * log_q)),
    )


def _focal(
    positive: Tensor,
    negative: Tensor,
    exponent_q: float,
    exponent_p: float,
    p: Tensor,
    q: Tensor,
    log_p: Tensor,
    log_q: Tensor,
) -> tuple[Tensor, Tensor]:
    """-positive log p - negative log q, where positive ~ q^exponent_q, negative ~ p^exponent_p."""
    loss = -positive * log_p - negative * log_q
    slope = positive * (exponent_q * p * log_p - q) + negative * (p - exponent_p * q * log_q)
    return loss, slope
