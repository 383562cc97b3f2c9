"""Loss of a patch and its slope by the logit, in registers; the formulas of `LossSpec`.

Everything comes from log p and log(1 - p), so that nothing is lost for logits of any size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.specs.enums import KINDS

_MSE = tl.constexpr(KINDS["mse"])
_BCE = tl.constexpr(KINDS["bce"])
_FOCAL = tl.constexpr(KINDS["focal"])
_CORNERNET = tl.constexpr(KINDS["cornernet"])
_QUALITY_FOCAL = tl.constexpr(KINDS["quality_focal"])
_VARIFOCAL = tl.constexpr(KINDS["varifocal"])

_LN2 = tl.constexpr(0.6931471805599453)
_LOG2_E = tl.constexpr(1.4426950408889634)
# What float32 cannot hold of it.
_LOG2_E_REST = tl.constexpr(1.92596298909109e-8)


@triton.jit
def _exp(x: tl.tensor) -> tl.tensor:
    """exp(x) for x <= 0."""
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        # 2^(high + low), low being what the product with log2 e was rounded by. Beyond -104 float32
        # has only 0, and with a product that is infinite there is no low.
        x = tl.maximum(x, -104.0, propagate_nan=tl.PropagateNan.ALL)
        high = x * _LOG2_E
        low = tl.fma(x, _LOG2_E_REST, tl.fma(x, _LOG2_E, -high))
        power = tl.exp2(high)
        result = tl.fma(power, low * _LN2, power)
    return result


@triton.jit
def _sigmoid(t: tl.tensor) -> tl.tuple:
    """1 / (1 + t) and log(1 + t) for t in [0, 1]."""
    whole = 1.0 + t
    if t.dtype == tl.float64:
        large = 1.0 / whole
        log = tl.log(whole) - ((whole - 1.0) - t) / whole
    else:
        # The logarithm is 2 atanh(z / 2), z being t / (1 + t / 2); by its polynomial of degree 4 in
        # z^2 / 4 with the least largest error, 5e-9. Both quotients have one reciprocal.
        half = tl.fma(t, 0.5, 1.0)
        inverse = 1.0 / (whole * half)
        large = half * inverse
        z = t * (whole * inverse)
        s = z * z
        rest = tl.fma(s, 0.14005993 / 256.0, 0.14000903 / 64.0)
        rest = tl.fma(rest, s, 0.20010763 / 16.0)
        rest = tl.fma(rest, s, 0.33333209 / 4.0)
        log = tl.fma(z * s, rest, z)
    return large, log


@triton.jit
def _power(base: tl.tensor, exponent: tl.tensor, WHOLE: tl.constexpr) -> tl.tensor:
    """base ** exponent for base in [0, 1]; WHOLE is the exponent where that is a small whole."""
    if WHOLE == 0:
        result = base * 0.0 + 1.0
    elif WHOLE == 1:
        result = base
    elif WHOLE == 2:
        result = base * base
    elif WHOLE == 3:
        result = base * base * base
    elif WHOLE == 4:
        result = (base * base) * (base * base)
    else:
        power = _exp(exponent * tl.log(tl.where(base > 0.0, base, 1.0)))
        result = tl.where(base > 0.0, power, 0.0)
    return result


@triton.jit
def _power_of_log(
    base: tl.tensor, log: tl.tensor, exponent: tl.tensor, WHOLE: tl.constexpr
) -> tl.tensor:
    """base ** exponent where the base's logarithm is at hand."""
    return _exp(exponent * log) if WHOLE < 0 else _power(base, exponent, WHOLE)


@triton.jit
def loss_and_slope(
    s: tl.tensor, y: tl.tensor, parameters: tl.tuple, LOSS: tl.constexpr
) -> tl.tuple:
    """Loss of logits ``s`` against targets ``y`` of the same shape and dtype, and its slope.

    Both are NaN where the logit is not finite: an error would have to wait for the device.

    Args:
        parameters: alpha, beta, gamma, weight, of the dtype of ``s``.
        LOSS: a `cass_core.ops.spec_args.Loss`.
    """
    alpha, beta, gamma, weight = parameters
    s += s - s  # NaN of an infinity
    if LOSS.kind == _CORNERNET:
        # The loss at a target of 1 is that of background at the opposite logit.
        s = tl.where(y == 1.0, -s, s)
    t = _exp(-tl.abs(s))
    large, softplus = _sigmoid(t)
    small = t * large
    positive = s >= 0.0
    p = tl.where(positive, large, small)
    q = tl.where(positive, small, large)
    log_p = tl.where(positive, 0.0, s) - softplus
    log_q = tl.where(positive, -s, 0.0) - softplus
    # p - y, without cancellation at y = 1.
    diff = tl.where(positive, (1.0 - y) - q, p - y)
    if LOSS.kind == _MSE:
        loss = diff * diff
        slope = 2.0 * diff * p * q
    elif LOSS.kind == _BCE:
        loss = -tl.fma(y, log_p, (1.0 - y) * log_q)
        slope = diff
    elif LOSS.kind == _FOCAL:
        on = y * _power_of_log(q, log_q, alpha, LOSS.alpha)
        off = (1.0 - y) * _power_of_log(p, log_p, beta, LOSS.beta)
        loss = -tl.fma(on, log_p, off * log_q)
        rise = tl.fma(-beta * q, log_q, p)
        slope = tl.fma(on, tl.fma(alpha * p, log_p, -q), off * rise)
    elif LOSS.kind == _CORNERNET:
        lacking = 1.0 - y
        is_one = lacking == 0.0  # found anew, as what is kept takes registers
        off = tl.where(is_one, 1.0, _power(lacking, beta, LOSS.beta))
        off *= _power_of_log(p, log_p, alpha, LOSS.alpha)
        loss = -(off * log_q)
        slope = off * tl.fma(-alpha * q, log_q, p)
        slope = tl.where(is_one, -slope, slope)
    elif LOSS.kind == _QUALITY_FOCAL:
        size = tl.abs(diff)
        bce = -tl.fma(y, log_p, (1.0 - y) * log_q)
        scale = _power(size, gamma, LOSS.gamma)
        if LOSS.gamma == 0:
            rise = size * 0.0
        elif LOSS.gamma > 0:
            rise = gamma * _power(size, gamma - 1.0, LOSS.gamma - 1)
        else:
            rise = gamma * scale / tl.where(size > 0.0, size, 1.0)
        # The slope of |p - y| ^ gamma; where it may not exist, at p = y, 0.
        rise = tl.where(diff > 0.0, rise, tl.where(diff < 0.0, -rise, 0.0))
        loss = scale * bce
        slope = tl.fma(rise * p * q, bce, scale * diff)
    elif LOSS.kind == _VARIFOCAL:
        background = weight * _power_of_log(p, log_p, gamma, LOSS.gamma)
        bce = -tl.fma(y, log_p, (1.0 - y) * log_q)
        loss = tl.where(y > 0.0, y * bce, -background * log_q)
        slope = tl.where(y > 0.0, y * diff, background * tl.fma(-gamma * q, log_q, p))
    else:  # soft_focal
        # 1 - q of its formula, without cancellation.
        miss = tl.fma(p, 1.0 - y, q * y)
        bce = -tl.fma(y, log_p, (1.0 - y) * log_q)
        scale = _power(miss, gamma, LOSS.gamma)
        if LOSS.gamma == 0:
            rise = miss * 0.0
        elif LOSS.gamma > 0:
            rise = gamma * _power(miss, gamma - 1.0, LOSS.gamma - 1)
        else:
            rise = gamma * scale / tl.where(miss > 0.0, miss, 1.0)
        loss = weight * scale * bce
        slope = weight * tl.fma(rise * p * q * (1.0 - 2.0 * y), bce, scale * diff)
    return loss, slope
