"""Boxes on one tile of patches: steps 1 to 8 of the method, in registers.

Boxes are placed in float64, 32 at once, one a lane; what is left, counted from the tile's first
cell, float32 holds in a head and a rest. Each box that reaches the tile is then broadcast to all
lanes. The value is separable: a box costs one exponential per row and per column of the tile and
one multiplication per patch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.specs.enums import TEMPERATURES

_FIXED = tl.constexpr(TEMPERATURES["fixed"])
_SMALL_GAIN = tl.constexpr(TEMPERATURES["small_gain"])


@triton.jit
def _split(value: tl.tensor) -> tl.tuple:
    """A float64 as two float32 that add up to it."""
    # Without the 29 bits that float32 has no room for.
    head = (value.to(tl.int64, bitcast=True) & -(1 << 29)).to(tl.float64, bitcast=True)
    return head.to(tl.float32), (value - head).to(tl.float32)


@triton.jit
def _of(values: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """The value of one lane, broadcast to all."""
    return tl.sum(tl.gather(values, tl.zeros([1], tl.int32) + lane, axis=0), axis=0)


@triton.jit
def _from(edge: tl.tensor, origin: tl.tensor) -> tl.tuple:
    """An edge, a float64 number of cells from the map's corner, counted from a whole cell."""
    head, rest = _split(edge)
    return head - origin, rest


@triton.jit
def _behind(at: tl.tensor, edge: tl.tuple, lane: tl.tensor) -> tl.tensor:
    """How far patch centres lie behind the edge of one lane; both are counted from the same cell.

    Near the edge both subtractions of its head are exact, and its rest comes last: the sign is that
    of float64, and a distance far below a cell keeps its digits.
    """
    return (at - _of(edge[0], lane)) - _of(edge[1], lane)


@triton.jit
def before(at: tl.tensor, edge: tl.tensor, origin: tl.tensor) -> tl.tensor:
    """How far patch centres lie behind an edge, a float64 number of cells from the map's corner."""
    head, rest = _from(edge, origin)
    return (at - head) - rest  # in this order, as in `_behind`


@triton.jit
def _axis(
    low: tl.tensor,
    high: tl.tensor,
    inverse: tl.tensor,
    origin: tl.tensor,
    cells: tl.tensor,
    lengths: tl.tuple,
    SHAPE: tl.constexpr,
) -> tl.tuple:
    """Steps 1 to 4 for one axis of boxes, one a lane, counted from the origin.

    The float64 operations are those of the compiled CPU loop, in its order, so that both decide
    alike for a centre that lies on an edge.

    Returns the sides' lengths in float64, the widths of their contexts and their edges: of the
    dilated box and of the core, each a head and a rest, and how far behind the former a centre must
    lie at least.
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
    least_low = tl.zeros_like(low).to(tl.float32)
    least_high = least_low
    if SHAPE.anisotropic:
        is_open = (expand > 0.0) & (expand >= min_radius)
        least_low = tl.where(is_open, 1e-30, 0.0)
        least_high = tl.where(is_open & (reach_high <= cells), 1e-30, 0.0)
    reach_high = tl.minimum(reach_high, tl.cast(cells, tl.float64))
    if not SHAPE.subpixel:
        low = tl.minimum(tl.maximum(low, 0.0), tl.cast(cells, tl.float64))
        high = tl.minimum(tl.maximum(high, 0.0), tl.cast(cells, tl.float64))
    reach = (_from(reach_low, origin), least_low, _from(reach_high, origin), least_high)
    core = (_from(low, origin), _from(high, origin))
    return length, expand.to(tl.float32), reach, core


@triton.jit
def _inverse(radius: tl.tensor) -> tl.tensor:
    """1 / radius; 0 for a radius of 0, where no patch outside the core is reached."""
    return tl.where(radius > 0.0, 1.0 / radius, 0.0)


@triton.jit
def place_boxes(
    sides: tl.tuple,
    inverse: tl.tuple,
    origin: tl.tuple,
    cells: tl.tuple,
    numbers: tl.tuple,
    SHAPE: tl.constexpr,
) -> tl.tuple:
    """What `box_on_tile` takes of boxes, one a lane.

    Args:
        sides: x1, y1, x2, y2 in pixels.
        inverse, origin, cells: along y and x, as `_axis` takes them.
        numbers: as `cass_core.ops.spec_args.kernel_numbers` gives them.
        SHAPE: a `cass_core.ops.spec_args.Shape`.
    """
    _, _, expansion, min_size, min_radius, scale_x, scale_y, first, second, third = numbers
    expansion = tl.cast(expansion, tl.float64) + numbers[0]
    min_size = tl.cast(min_size, tl.float64) + numbers[1]
    lengths = (expansion, min_size, min_radius)
    x1, y1, x2, y2 = sides
    length_x, expand_x, reach_x, core_x = _axis(
        x1, x2, inverse[1], origin[1], cells[1], lengths, SHAPE
    )
    length_y, expand_y, reach_y, core_y = _axis(
        y1, y2, inverse[0], origin[0], cells[0], lengths, SHAPE
    )
    # Steps 6 and 7: radii and widths.
    if SHAPE.anisotropic:
        nearer_x = _inverse(tl.maximum(expand_x, min_radius))
        nearer_y = _inverse(tl.maximum(expand_y, min_radius))
    else:
        diagonal = tl.sqrt(expand_x * expand_x + expand_y * expand_y)
        nearer_x = _inverse(tl.maximum(diagonal, min_radius))
        nearer_y = nearer_x
    if SHAPE.gaussian and SHAPE.temperature != _FIXED:
        if SHAPE.temperature == _SMALL_GAIN:  # threshold squared, 1 / gain squared
            factor = tl.where(length_x * length_y < first, second, 1.0)
        else:  # 1 / reference, least, largest
            factor = tl.sqrt((length_x * length_y).to(tl.float32)) * first
            factor = tl.minimum(tl.maximum(factor, second), third)
            factor = 1.0 / (factor * factor)
        # Finite, so that 0 times it is 0.
        scale_x = tl.maximum(scale_x * factor, -3e38)
        scale_y = tl.maximum(scale_y * factor, -3e38)
    return reach_y, core_y, nearer_y, scale_y, reach_x, core_x, nearer_x, scale_x


@triton.jit
def _on_axis(
    at: tl.tensor, lane: tl.tensor, reach: tl.tuple, core: tl.tuple, nearer: tl.tensor
) -> tl.tuple:
    """Step 5: normalised distance of patch centres to a box's core, and whether it reaches them."""
    low, least_low, high, least_high = reach
    reached = _behind(at, low, lane) >= _of(least_low, lane)
    reached &= -_behind(at, high, lane) >= _of(least_high, lane)
    outside = tl.maximum(-_behind(at, core[0], lane), _behind(at, core[1], lane))
    return tl.maximum(outside, 0.0) * _of(nearer, lane), reached


@triton.jit
def box_on_tile(at: tl.tuple, lane: tl.tensor, boxes: tl.tuple, SHAPE: tl.constexpr) -> tl.tensor:
    """Value of every patch of a tile under the box of one lane.

    Args:
        at: patch centres along y and x, counted from the tile's first cell.
        boxes: as `place_boxes` gives them for that cell.
        SHAPE: a `cass_core.ops.spec_args.Shape`.
    """
    reach_y, core_y, nearer_y, scale_y, reach_x, core_x, nearer_x, scale_x = boxes
    u, in_x = _on_axis(at[1], lane, reach_x, core_x, nearer_x)
    v, in_y = _on_axis(at[0], lane, reach_y, core_y, nearer_y)
    if SHAPE.gaussian:
        if SHAPE.temperature != _FIXED:
            scale_x = _of(scale_x, lane)
            scale_y = _of(scale_y, lane)
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
