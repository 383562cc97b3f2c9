"""Times of the losses with their gradients: `compute_loss` beside autograd."""

from __future__ import annotations

from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from benchmarks.common.measure import fitted, interleaved
from benchmarks.common.workload import IMAGE_SIZE, SPEC
from cass_core import LossSpec, compute_loss, generate_mask
from cass_core.specs import LossKind
from cass_core.synthetic import street_boxes

SHAPE = (16, 92, 160)
# How many times faster than autograd the default kind is to be.
BOUND = 2.5

_BOXES = 30


def time_losses(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a batch by kind, under ``autograd`` and ``compute_loss``."""
    images, *feature_map = SHAPE
    boxes = street_boxes(images, _BOXES, image_size=IMAGE_SIZE)
    target = torch.from_numpy(generate_mask(boxes, IMAGE_SIZE, tuple(feature_map), SPEC))
    # Most patches are background, and a trained predictor says so.
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 2
    leaf = logits.clone().requires_grad_()
    results = {}
    for kind in get_args(LossKind):
        spec = LossSpec(kind=kind)
        _check(logits, leaf, target, spec)
        seconds = interleaved(
            fitted(
                {
                    "autograd": partial(autograd_loss, leaf, target, spec),
                    "compute_loss": partial(compute_loss, logits, target, spec, return_grad=True),
                }
            ),
            rounds,
        )
        results[kind] = {name: value * 1e3 for name, value in seconds.items()}
    return results


def autograd_loss(logits: Tensor, target: Tensor, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Mean loss in plain torch and its gradient; `LossSpec` has the formulas."""
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
    if spec.kind == "soft_focal":
        bce = binary_cross_entropy_with_logits(s, y, reduction="none")
        return spec.weight * (1 - p * y - (1 - p) * (1 - y)) ** spec.gamma * bce
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


def _check(logits: Tensor, leaf: Tensor, target: Tensor, spec: LossSpec) -> None:
    """Refuse to time two functions that do not compute the same."""
    loss, gradient = autograd_loss(leaf, target, spec)
    ours = compute_loss(logits, target, spec, return_grad=True)
    # A mean's gradient has the size of one over the patches.
    patches = logits.numel()
    same_loss = torch.isclose(ours.loss, loss, rtol=1e-4)
    same_gradient = torch.allclose(ours.grad * patches, gradient * patches, rtol=1e-4, atol=1e-5)
    if not (same_loss and same_gradient):
        raise SystemExit(f"{spec.kind}: compute_loss and autograd differ")
