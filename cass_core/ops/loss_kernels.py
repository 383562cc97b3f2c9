"""Loss and gradient in one pass over the logits, against a target or straight from boxes.

Each program sums its own patches; a second, small kernel adds those sums up in a fixed order, in
float64, so that the same input gives the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.ops.loss_math import loss_and_slope
from cass_core.ops.tiles import locate, sides, soft_tile
from cass_core.specs.enums import MERGES

_SUM = tl.constexpr(MERGES["sum"])


@triton.jit
def _number(heads: tl.tuple, rests: tl.tuple, i: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Number i: launched as two float32, since there is no other float to launch with."""
    number = tl.cast(heads[i], dtype)
    if dtype == tl.float64:
        number += tl.cast(rests[i], dtype)
    return number


@triton.jit
def _write(
    s: tl.tensor,
    y: tl.tensor,
    inside: tl.tensor,
    offset: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    weight: tl.tensor,
    divisor: tl.tensor,
    LOSS: tl.constexpr,
) -> tl.tensor:
    """Store losses and gradient of these patches where they are requested; the losses' sum."""
    if LOSS.clamp:
        clamp = _number(heads, rests, 4, s.dtype)
        is_beyond = (s > clamp) | (s < -clamp)
        # NaN stays.
        s = tl.where(s > clamp, clamp, tl.where(s < -clamp, -clamp, s))
    parameters = (
        _number(heads, rests, 0, s.dtype),
        _number(heads, rests, 1, s.dtype),
        _number(heads, rests, 2, s.dtype),
        _number(heads, rests, 3, s.dtype),
    )
    loss, slope = loss_and_slope(s, y, parameters, LOSS)
    if LOSS.clamp:
        slope = tl.where(is_beyond, 0.0, slope)
    if LOSS.weighted:
        # Where the weight is 0, so is all, whatever it was.
        loss = tl.where(weight != 0.0, loss * weight, 0.0)
    if LOSS.per_patch:
        tl.store(losses + offset, loss, mask=inside)
    if LOSS.grad:
        if LOSS.weighted:
            scale = weight / tl.load(divisor).to(s.dtype)
            slope = tl.where(weight != 0.0, slope, 0.0)
            scale = tl.where(weight != 0.0, scale, 0.0)
        else:
            scale = 1.0 / _number(heads, rests, 5, s.dtype)
        tl.store(grad + offset, (slope * scale).to(grad.dtype.element_ty), mask=inside)
    return tl.sum(tl.ravel(tl.where(inside, loss, 0.0))).to(tl.float64)


@triton.jit(do_not_specialize=["heads", "rests"])
def target_kernel(
    logits: tl.tensor,
    target: tl.tensor,
    weights: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    sums: tl.tensor,
    divisor: tl.tensor,
    count: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    LOSS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a block of the flat logits.

    ``weights``, and ``divisor``, a float64 that the sum is divided by, are read where LOSS.weighted
    is true.
    """
    program = tl.program_id(0)
    offset = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < count
    real = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    s = tl.load(logits + offset, mask=inside, other=0.0).to(real)
    y = tl.load(target + offset, mask=inside, other=0.0)
    if target.dtype.element_ty == tl.uint8:
        # value / 255 as rounded once, for all 256 values: a quotient, and what it is wrong by.
        value = y.to(tl.float32)
        y = value * (1.0 / 255.0)
        y = tl.fma(tl.fma(y, -255.0, value), 1.0 / 255.0, y)
    weight = s
    # Rounded as the CPU rounds it, then checked: loss and slope are NaN there too.
    y = y.to(real)
    s = tl.where((y >= 0.0) & (y <= 1.0), s, float("nan"))
    if LOSS.weighted:
        weight = tl.load(weights + offset, mask=inside, other=0.0).to(real)
    total = _write(s, y, inside, offset, losses, grad, heads, rests, weight, divisor, LOSS)
    tl.store(sums + program, total)


@triton.jit(do_not_specialize=["patch", "heads", "rests"])
def boxes_kernel(
    logits: tl.tensor,
    xyxy: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    sums: tl.tensor,
    patch: tl.tensor,
    cells: tl.tuple,
    scale: tl.tuple,
    columns: tl.tensor,
    numbers: tl.tuple,
    bounds: tl.tuple,
    heads: tl.tuple,
    rests: tl.tuple,
    SHAPE: tl.constexpr,
    LOSS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> None:
    """One program a tile; its target stays in registers."""
    tile = tl.program_id(0)
    h, w, rows = sides(cells)
    # Of half-precision logits 8 columns fit in a load, of the gradient 4 in a store: with 8 of one
    # and 4 of the other, each patch would have to change its lane in between.
    image, row, column, offset, inside = locate(tile, rows, columns, BLOCK_Y, BLOCK_X, 4)
    real = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    # Asked for before the boxes are: it arrives while they are worked on.
    s = tl.load(logits + offset, mask=inside, other=0.0).to(real)
    y, _, is_reached = soft_tile(
        image,
        row,
        column,
        (xyxy, offsets, sizes),
        scale,
        (h, w),
        patch,
        numbers,
        bounds,
        SHAPE,
        False,
        BLOCK_Y,
        BLOCK_X,
    )
    if SHAPE.merge == _SUM:
        s = tl.where(y <= 1.0, s, float("nan"))  # as of any target
    # With a target of 0 the compiler leaves out what is of objects alone; most tiles have none.
    if is_reached:
        total = _write(s, y.to(real), inside, offset, losses, grad, heads, rests, s, sums, LOSS)
    else:
        none = tl.zeros_like(s)
        total = _write(s, none, inside, offset, losses, grad, heads, rests, s, sums, LOSS)
    tl.store(sums + tile, total)


@triton.jit(do_not_specialize=["count", "heads", "rests"])
def finish_kernel(
    sums: tl.tensor,
    loss: tl.tensor,
    whole: tl.tensor,
    divisor: tl.tensor,
    count: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    PER_PATCH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The sum and, but where the loss is per patch, the reduced loss, from the programs' sums."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    start = 0
    while start < count:
        total += tl.load(sums + start + lane, mask=start + lane < count, other=0.0)
        start += BLOCK
    result = tl.sum(total)
    tl.store(whole, result.to(whole.dtype.element_ty))
    if not PER_PATCH:
        if WEIGHTED:
            by = tl.load(divisor)
            result = tl.where(by > 0.0, result / by, 0.0)
        else:
            result /= _number(heads, rests, 5, tl.float64)
        tl.store(loss, result.to(loss.dtype.element_ty))
