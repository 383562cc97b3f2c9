"""One box on one tile of patches: steps 1 to 8 of the method, in registers.

The value is separable: a box costs one exponential per row and per column of the tile and one
multiplication per patch. Boxes are placed in float64; what is left, counted from the tile's first
cell, float32 holds in a head and a rest.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.enums import TEMPERATURES

_FIXED = tl.constexpr(TEMPERATURES["fixed"])
_SMALL_GAIN = tl.constexpr(TEMPERATURES["small_gain"])


@triton.jit
def _split(value: tl.tensor) -> tl.tuple:
    """A float64 as two float32 that add up to it."""
    # Without the 29 bits that float32 has no room for.
    head = (value.to(tl.int64, bitcast=True) & -(1 << 29)).to(tl.float64, bitcast=True)
    return head.to(tl.float32), (value - head).to(tl.float32)


@triton.jit
def before(at: tl.tensor, edge: tl.tensor, origin: tl.tensor) -> tl.tensor:
    """How far patch centres lie behind an edge, a float64 number of cells from the map's corner.

    Near the edge both subtractions of the head are exact, and the rest of the edge comes last: the
    sign is that of float64, and a distance far below a cell keeps its digits.
    """
    head, rest = _split(edge)
    return (at - (head - origin)) - rest


@triton.jit
def _axis(
    at: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    inverse: tl.tensor,
    origin: tl.tensor,
    cells: tl.tensor,
    lengths: tl.tuple,
    SHAPE: tl.constexpr,
) -> tl.tuple:
    """Steps 1 to 5 for one axis of a box and the patch centres ``at``, counted from the origin.

    The float64 operations are those of the compiled CPU loop, in its order, so that both decide
    alike for a centre that lies on an edge.

    Returns the side's length in float64, the width of its context, the distance of each centre to
    the core and whether the box reaches it.
    """
    expansion, min_size, min_radius = lengths
    low = low.to(tl.float64)
    high = high.to(tl.float64)
    length = (high - low) * inverse
    low = low * inverse
    high = high * inverse
    centre = 0.5 * (low + high)
    short = length < min_size
    low = tl.where(short, centre - 0.5 * min_size, low)
    high = tl.where(short, centre + 0.5 * min_size, high)
    length = tl.where(short, min_size, length)
    expand = length * expansion
    reach_low = low - expand
    reach_high = high + expand
    origin = origin.to(tl.float32)
    # The dilated box is closed; but where its edge is where d reaches 1, the value there is 0.
    # What lies behind an edge at all lies behind it by more than 1e-30.
    least_low = 0.0
    least_high = 0.0
    if SHAPE.anisotropic:
        is_open = (expand > 0.0) & (expand >= min_radius)
        least_low = tl.where(is_open, 1e-30, 0.0)
        least_high = tl.where(is_open & (reach_high <= cells), 1e-30, 0.0)
    reach_high = tl.minimum(reach_high, cells.to(tl.float64))
    reached = before(at, reach_low, origin) >= least_low
    reached &= -before(at, reach_high, origin) >= least_high
    if not SHAPE.subpixel:
        low = tl.minimum(tl.maximum(low, 0.0), cells.to(tl.float64))
        high = tl.minimum(tl.maximum(high, 0.0), cells.to(tl.float64))
    outside = tl.maximum(-before(at, low, origin), before(at, high, origin))
    return length, expand.to(tl.float32), tl.maximum(outside, 0.0), reached


@triton.jit
def _inverse(radius: tl.tensor) -> tl.tensor:
    """1 / radius; 0 for a radius of 0, where no patch outside the core is reached."""
    return tl.where(radius > 0.0, 1.0 / radius, 0.0)


@triton.jit
def box_on_tile(
    box: tl.tensor,
    at: tl.tuple,
    inverse: tl.tuple,
    origin: tl.tuple,
    cells: tl.tuple,
    numbers: tl.tuple,
    SHAPE: tl.constexpr,
) -> tl.tensor:
    """Value of every patch of a tile under one box.

    Args:
        box: points at its four sides.
        at, inverse, origin, cells: along y and x, as `_axis` takes them.
        numbers: as `cass_core.ops.spec_args.kernel_numbers` gives them.
        SHAPE: a `cass_core.ops.spec_args.Shape`.
    """
    _, _, expansion, min_size, min_radius, scale_x, scale_y, first, second, third = numbers
    expansion = tl.cast(expansion, tl.float64) + numbers[0]
    min_size = tl.cast(min_size, tl.float64) + numbers[1]
    lengths = (expansion, min_size, min_radius)
    length_x, expand_x, u, in_x = _axis(
        at[1], tl.load(box), tl.load(box + 2), inverse[1], origin[1], cells[1], lengths, SHAPE
    )
    length_y, expand_y, v, in_y = _axis(
        at[0], tl.load(box + 1), tl.load(box + 3), inverse[0], origin[0], cells[0], lengths, SHAPE
    )
    # Steps 6 and 7: radii and widths.
    if SHAPE.anisotropic:
        u *= _inverse(tl.maximum(expand_x, min_radius))
        v *= _inverse(tl.maximum(expand_y, min_radius))
    else:
        diagonal = tl.sqrt(expand_x * expand_x + expand_y * expand_y)
        scale = _inverse(tl.maximum(diagonal, min_radius))
        u *= scale
        v *= scale
    if SHAPE.gaussian:
        if SHAPE.temperature != _FIXED:
            if SHAPE.temperature == _SMALL_GAIN:  # threshold squared, 1 / gain squared
                factor = tl.where(length_x * length_y < first, second, 1.0)
            else:  # 1 / reference, least, largest
                factor = tl.sqrt((length_x * length_y).to(tl.float32)) * first
                factor = tl.minimum(tl.maximum(factor, second), third)
                factor = 1.0 / (factor * factor)
            # Finite, so that 0 times it is 0.
            scale_x = tl.maximum(scale_x * factor, -3e38)
            scale_y = tl.maximum(scale_y * factor, -3e38)
        along_x = tl.exp2(u * u * scale_x)
        along_y = tl.exp2(v * v * scale_y)
        if SHAPE.anisotropic:
            along_x = tl.where(in_x, along_x, 0.0)
            along_y = tl.where(in_y, along_y, 0.0)
            value = along_y * along_x
        else:
            near = _square(v, in_y) + _square(u, in_x) < 1.0
            value = tl.where(near, along_y * along_x, 0.0)
    elif SHAPE.anisotropic:
        along_x = tl.where(in_x, tl.maximum(1.0 - u, 0.0), 0.0)
        along_y = tl.where(in_y, tl.maximum(1.0 - v, 0.0), 0.0)
        value = tl.minimum(along_y, along_x)
    else:
        square = _square(v, in_y) + _square(u, in_x)
        value = tl.maximum(1.0 - tl.sqrt(square), 0.0)
    return value


@triton.jit
def _square(distance: tl.tensor, reached: tl.tensor) -> tl.tensor:
    """Squared normalised distance; beyond the reach of 1 where the dilated box does not cover."""
    return tl.where(reached, distance * distance, 2.0)
