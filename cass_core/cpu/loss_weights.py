"""What clamped logits and weights change of a loss, before and behind its own kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from cass_core.cpu.jit import kernel


@kernel
def clamp_logits(logits: Any, bound: float, out: Any) -> None:
    """min(max(s, -bound), bound) of flat logits; NaN stays."""
    high = logits.dtype.type(bound)
    for i in range(logits.size):
        s = logits[i]
        s = high if s > high else s
        out[i] = -high if s < -high else s


@kernel
def settle(logits: Any, bound: float, weights: Any, scale: float, loss: Any, grad: Any) -> float:
    """Put weights into losses and gradients, in place.

    Where the weight is 0, so are both, whatever they were.

    Args:
        logits: flat, as they were given; beyond ``bound`` the gradient is 0.
        bound: of the logits, or infinity.
        weights: float32 of as many patches, or empty where all are 1.
        scale: factor on the gradient.
        loss: of each patch.
        grad: of each patch, without the scale; or empty.

    Returns:
        The sum of the losses, in float64.
    """
    real = logits.dtype.type
    high, zero = real(bound), real(0)
    has_weights = weights.size > 0
    if has_weights:
        for i in range(loss.size):
            loss[i] = loss[i] * weights[i] if weights[i] != np.float32(0) else zero
    if grad.size > 0:
        if has_weights:
            for i in range(loss.size):
                # Their product first: a normaliser may be as small as the weights.
                factor = real(weights[i] * scale)
                grad[i] = grad[i] * factor if weights[i] != np.float32(0) else zero
        else:
            for i in range(loss.size):
                grad[i] *= real(scale)
        for i in range(loss.size):
            grad[i] = zero if abs(logits[i]) > high else grad[i]
    s0 = s1 = s2 = s3 = 0.0
    even = loss.size - loss.size % 4
    for i in range(0, even, 4):
        s0 += loss[i]
        s1 += loss[i + 1]
        s2 += loss[i + 2]
        s3 += loss[i + 3]
    for i in range(even, loss.size):
        s0 += loss[i]
    return (s0 + s2) + (s1 + s3)
