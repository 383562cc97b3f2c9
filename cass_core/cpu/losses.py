"""Loss and gradient of every patch on the CPU, in one pass over logits and target.

The work goes block by block, so that what a block needs stays in the first-level cache: first
what all kinds share (p, 1 - p, log p, log(1 - p)), then the kind's own loop. The loops have no
branches and call no library function, so LLVM vectorises them. What a block needs lies in one
flat array at constant distances: separate arrays would need more tests for overlap at run time
than LLVM is willing to make, and it would leave the loops scalar.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cass_core.cpu.jit import inline, kernel
from cass_core.specs.enums import KINDS

_MSE, _BCE, _FOCAL = KINDS["mse"], KINDS["bce"], KINDS["focal"]
_CORNERNET, _QUALITY_FOCAL = KINDS["cornernet"], KINDS["quality_focal"]
_VARIFOCAL = KINDS["varifocal"]

_BLOCK = 1024
# Where in a block's scratch these lie: p, 1 - p, their logarithms, p - y, two powers, gradient.
_P, _Q, _LOG_P, _LOG_Q, _DIFF, _A, _B, _G = (k * _BLOCK for k in range(8))


@inline
def _exp32(x: Any) -> Any:
    """exp(x) for float32 x <= 0, to about 1 ulp, after Cephes' expf; 0 below 2^-126."""
    inside = max(x, np.float32(-87.0))
    n = (inside * np.float32(1.44269504) + np.float32(12582912.0)) - np.float32(12582912.0)
    r = inside - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1.0)
    power_of_two = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return y * power_of_two if x >= np.float32(-87.0) else np.float32(0.0)


@inline
def _log1p32(t: Any) -> Any:
    """log(1 + t) for float32 t in [0, 1]: 2 atanh(t / (2 + t)), its series cut below 1e-8."""
    z = t / (np.float32(2.0) + t)
    s = z * z
    y = np.float32(1.0 / 15.0)
    y = y * s + np.float32(1.0 / 13.0)
    y = y * s + np.float32(1.0 / 11.0)
    y = y * s + np.float32(1.0 / 9.0)
    y = y * s + np.float32(1.0 / 7.0)
    y = y * s + np.float32(1.0 / 5.0)
    y = y * s + np.float32(1.0 / 3.0)
    return np.float32(2.0) * (z + z * s * y)


@inline
def _probabilities32(logits: Any, n: int, w: Any, want_logs: bool) -> None:
    one, zero = np.float32(1.0), np.float32(0.0)
    if not want_logs:
        for i in range(n):
            s = logits[i]
            t = _exp32(-abs(s))
            large = one / (one + t)
            small = t * large
            check = s - s
            w[_P + i] = (large if s >= zero else small) + check
            w[_Q + i] = (small if s >= zero else large) + check
        return
    for i in range(n):
        s = logits[i]
        t = _exp32(-abs(s))
        large = one / (one + t)
        small = t * large
        softplus = _log1p32(t)
        # s - s is 0, or NaN where s is not finite: the bounds above must not hide that.
        check = s - s
        w[_P + i] = (large if s >= zero else small) + check
        w[_Q + i] = (small if s >= zero else large) + check
        w[_LOG_P + i] = (zero if s >= zero else s) - softplus + check
        w[_LOG_Q + i] = (-s if s >= zero else zero) - softplus + check


@inline
def _probabilities64(logits: Any, n: int, w: Any) -> None:
    for i in range(n):
        s = logits[i]
        t = math.exp(-abs(s))
        large = 1.0 / (1.0 + t)
        small = t * large
        softplus = math.log1p(t)
        check = s - s
        w[_P + i] = (large if s >= 0.0 else small) + check
        w[_Q + i] = (small if s >= 0.0 else large) + check
        w[_LOG_P + i] = (0.0 if s >= 0.0 else s) - softplus + check
        w[_LOG_Q + i] = (-s if s >= 0.0 else 0.0) - softplus + check


@inline
def _power(w: Any, base: int, exponent: float, n: int, out: int) -> None:
    """w[out] = w[base] ** exponent, bases in [0, 1]; fast for whole and half exponents."""
    whole = math.floor(exponent)
    if 0.0 <= exponent <= 16.0 and (exponent == whole or exponent == whole + 0.5):
        if exponent == whole:
            for i in range(n):
                w[out + i] = 1.0
        else:
            for i in range(n):
                w[out + i] = math.sqrt(w[base + i])
        for _ in range(int(whole)):
            for i in range(n):
                w[out + i] *= w[base + i]
    else:
        for i in range(n):
            w[out + i] = w[base + i] ** exponent


@inline
def _sum(values: Any, n: int) -> float:
    """Sum in float64 over a fixed number of lanes, so that every machine adds in one order."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    even = n - n % 8
    for i in range(0, even, 8):
        s0 += values[i]
        s1 += values[i + 1]
        s2 += values[i + 2]
        s3 += values[i + 3]
        s4 += values[i + 4]
        s5 += values[i + 5]
        s6 += values[i + 6]
        s7 += values[i + 7]
    total = ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))
    for i in range(even, n):
        total += values[i]
    return total


@kernel
def loss_and_gradient(
    logits: Any,
    target: Any,
    kind: int,
    alpha: float,
    beta: float,
    gamma: float,
    weight: float,
    scale: float,
    loss: Any,
    grad: Any,
) -> tuple[float, bool]:
    """Losses of flat ``logits`` against ``target``, both float32 or both float64.

    Args:
        scale: factor on the gradient.
        loss: per-patch losses go here, if it is as large as ``logits``; else it is scratch of
            one block.
        grad: gradient times ``scale``, of the logits' size; or empty if not requested.

    Returns:
        The sum of the losses, and whether every target lies in [0, 1].
    """
    real = logits.dtype.type
    one, zero, two = real(1), real(0), real(2)
    scale_, weight_ = real(scale), real(weight)
    alpha_, beta_, gamma_ = real(alpha), real(beta), real(gamma)
    w = np.empty(8 * _BLOCK, logits.dtype)
    keep = loss.size >= logits.size
    total, good = 0.0, True
    for start in range(0, logits.size, _BLOCK):
        n = min(_BLOCK, logits.size - start)
        s = logits[start : start + n]
        y = target[start : start + n]
        out = loss[start : start + n] if keep else loss[:n]
        outside = 0
        for i in range(n):
            outside += not (y[i] >= zero and y[i] <= one)
        good = good and outside == 0
        if logits.itemsize == 4:
            _probabilities32(s, n, w, kind != _MSE)
        else:
            _probabilities64(s, n, w)
        for i in range(n):  # p - y, without cancellation at y = 1
            w[_DIFF + i] = (one - y[i]) - w[_Q + i] if s[i] >= zero else w[_P + i] - y[i]
        if kind == _MSE:
            for i in range(n):
                out[i] = w[_DIFF + i] * w[_DIFF + i]
                w[_G + i] = two * w[_DIFF + i] * w[_P + i] * w[_Q + i]
        elif kind == _BCE:
            for i in range(n):
                out[i] = -(y[i] * w[_LOG_P + i] + (one - y[i]) * w[_LOG_Q + i])
                w[_G + i] = w[_DIFF + i]
        elif kind == _FOCAL:
            _power(w, _Q, alpha, n, _A)
            _power(w, _P, beta, n, _B)
            for i in range(n):
                p, q, log_p, log_q = w[_P + i], w[_Q + i], w[_LOG_P + i], w[_LOG_Q + i]
                positive, negative = y[i] * w[_A + i], (one - y[i]) * w[_B + i]
                out[i] = -positive * log_p - negative * log_q
                w[_G + i] = positive * (alpha_ * p * log_p - q) + negative * (p - beta_ * q * log_q)
        elif kind == _CORNERNET:
            for i in range(n):
                w[_DIFF + i] = one - y[i]
            _power(w, _DIFF, beta, n, _G)
            _power(w, _Q, alpha, n, _A)
            _power(w, _P, alpha, n, _B)
            for i in range(n):
                p, q, log_p, log_q = w[_P + i], w[_Q + i], w[_LOG_P + i], w[_LOG_Q + i]
                positive = w[_A + i] if y[i] == one else zero
                negative = zero if y[i] == one else w[_G + i] * w[_B + i]
                out[i] = -positive * log_p - negative * log_q
                w[_G + i] = positive * (alpha_ * p * log_p - q) + negative * (
                    p - alpha_ * q * log_q
                )
        elif kind == _QUALITY_FOCAL:
            for i in range(n):
                w[_G + i] = abs(w[_DIFF + i])
            _power(w, _G, gamma, n, _A)
            _power(w, _G, gamma - 1.0, n, _B)
            for i in range(n):
                diff = w[_DIFF + i]
                bce = -(y[i] * w[_LOG_P + i] + (one - y[i]) * w[_LOG_Q + i])
                # The slope of |p - y| ^ gamma; where it may not exist, at p = y, 0.
                slope = gamma_ * (w[_B + i] if diff > zero else -w[_B + i])
                slope = slope if diff != zero and gamma_ != zero else zero
                out[i] = w[_A + i] * bce
                w[_G + i] = slope * w[_P + i] * w[_Q + i] * bce + w[_A + i] * diff
        elif kind == _VARIFOCAL:
            _power(w, _P, gamma, n, _A)
            for i in range(n):
                p, q, log_q = w[_P + i], w[_Q + i], w[_LOG_Q + i]
                bce = -(y[i] * w[_LOG_P + i] + (one - y[i]) * log_q)
                background = weight_ * w[_A + i]
                out[i] = y[i] * bce if y[i] > zero else -background * log_q
                w[_G + i] = (
                    y[i] * w[_DIFF + i] if y[i] > zero else background * (p - gamma_ * q * log_q)
                )
        else:  # soft_focal
            for i in range(n):  # 1 - q of its formula, without cancellation
                w[_G + i] = w[_P + i] * (one - y[i]) + w[_Q + i] * y[i]
            _power(w, _G, gamma, n, _A)
            _power(w, _G, gamma - 1.0, n, _B)
            for i in range(n):
                bce = -(y[i] * w[_LOG_P + i] + (one - y[i]) * w[_LOG_Q + i])
                rise = gamma_ * w[_B + i] * w[_P + i] * w[_Q + i] * (one - two * y[i])
                rise = rise if w[_G + i] > zero and gamma_ != zero else zero
                out[i] = weight_ * w[_A + i] * bce
                w[_G + i] = weight_ * (rise * bce + w[_A + i] * w[_DIFF + i])
        if grad.size > 0:
            for i in range(n):
                grad[start + i] = w[_G + i] * scale_
        total += _sum(out, n)
    return total, good
