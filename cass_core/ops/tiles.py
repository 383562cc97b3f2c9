"""The soft target of one tile of patches, made in registers: what every kernel here shares.

A tile first asks which boxes can reach it at all, 32 at a time, and then takes those alone. The
value is separable: a box costs one exponential per row and per column of the tile and one
multiplication per patch. Positions are counted from the tile's first cell, with the subtraction
done in float64: what is left is small enough for float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A program makes one tile, with one warp: what it works out for a box is then done once a tile.
# 32 x 32 patches are 32 registers a lane, in 4 columns of 8 rows where a row can be written wide.
BLOCK_Y = 32
BLOCK_X = 32
WARPS = 1
# Boxes that are looked at together; one bit of an int32 each.
_BOXES = tl.constexpr(32)
# Neighbouring columns that lie in neighbouring lanes.
_LANES = tl.constexpr(8)

# As in cass_core.codes.
_FIXED = tl.constexpr(0)
_SMALL_GAIN = tl.constexpr(2)
_MAX = tl.constexpr(0)
_CLIPPED_SUM = tl.constexpr(2)


@triton.jit
def _may_reach(
    low: tl.tensor,
    high: tl.tensor,
    inverse: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    expansion: tl.tensor,
    min_size: tl.tensor,
) -> tl.tensor:
    """Whether boxes come near the cells first .. last of an axis; errs to the safe side."""
    low = low * inverse
    high = high * inverse
    reach = (0.5 + expansion) * tl.maximum(high - low, min_size)
    rounding = 1e-6 * (tl.abs(low) + tl.abs(high) + last) + 1e-3
    off = tl.abs(0.5 * (low + high) - 0.5 * (first + last))
    return off <= 0.5 * (last - first) + reach + rounding


@triton.jit
def _split(value: tl.tensor) -> tl.tuple:
    """A float64 as two float32 that add up to it."""
    # Without the 29 bits that float32 has no room for.
    head = (value.to(tl.int64, bitcast=True) & -(1 << 29)).to(tl.float64, bitcast=True)
    return head.to(tl.float32), (value - head).to(tl.float32)


@triton.jit
def _before(at: tl.tensor, edge: tl.tensor, origin: tl.tensor) -> tl.tensor:
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
    expansion: tl.tensor,
    min_size: tl.tensor,
    min_radius: tl.tensor,
    ANISOTROPIC: tl.constexpr,
    SUBPIXEL: tl.constexpr,
) -> tl.tuple:
    """Steps 1 to 5 for one axis of a box and the patch centres ``at``, counted from the origin.

    The float64 operations are those of the compiled CPU loop, in its order, so that both decide
    alike for a centre that lies on an edge.

    Returns the side's length in float64, the width of its context, the distance of each centre to
    the core and whether the box reaches it.
    """
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
    if ANISOTROPIC:
        is_open = (expand > 0.0) & (expand >= min_radius)
        least_low = tl.where(is_open, 1e-30, 0.0)
        least_high = tl.where(is_open & (reach_high <= cells), 1e-30, 0.0)
    reach_high = tl.minimum(reach_high, cells.to(tl.float64))
    reached = _before(at, reach_low, origin) >= least_low
    reached &= -_before(at, reach_high, origin) >= least_high
    if not SUBPIXEL:
        low = tl.minimum(tl.maximum(low, 0.0), cells.to(tl.float64))
        high = tl.minimum(tl.maximum(high, 0.0), cells.to(tl.float64))
    outside = tl.maximum(-_before(at, low, origin), _before(at, high, origin))
    return length, expand.to(tl.float32), tl.maximum(outside, 0.0), reached


@triton.jit
def _inverse(radius: tl.tensor) -> tl.tensor:
    """1 / radius; 0 for a radius of 0, where no patch outside the core is reached."""
    return tl.where(radius > 0.0, 1.0 / radius, 0.0)


@triton.jit
def _bit_index(bit: tl.tensor) -> tl.tensor:
    """The index of the one bit that is set, which is a float32's exponent."""
    return ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255) - 127


@triton.jit
def _box_on_tile(
    box: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    inverse_y: tl.tensor,
    inverse_x: tl.tensor,
    origin_y: tl.tensor,
    origin_x: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    numbers: tl.tuple,
    ANISOTROPIC: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    SUBPIXEL: tl.constexpr,
) -> tl.tensor:
    """Value of every patch of a tile under one box; ``box`` points at its four sides."""
    _, _, expansion, min_size, min_radius, scale_x, scale_y, first, second, third = numbers
    expansion = tl.cast(expansion, tl.float64) + numbers[0]
    min_size = tl.cast(min_size, tl.float64) + numbers[1]
    length_x, expand_x, u, in_x = _axis(
        x,
        tl.load(box),
        tl.load(box + 2),
        inverse_x,
        origin_x,
        w,
        expansion,
        min_size,
        min_radius,
        ANISOTROPIC,
        SUBPIXEL,
    )
    length_y, expand_y, v, in_y = _axis(
        y,
        tl.load(box + 1),
        tl.load(box + 3),
        inverse_y,
        origin_y,
        h,
        expansion,
        min_size,
        min_radius,
        ANISOTROPIC,
        SUBPIXEL,
    )
    # Steps 6 and 7: radii and widths.
    if ANISOTROPIC:
        u *= _inverse(tl.maximum(expand_x, min_radius))
        v *= _inverse(tl.maximum(expand_y, min_radius))
    else:
        diagonal = tl.sqrt(expand_x * expand_x + expand_y * expand_y)
        inverse = _inverse(tl.maximum(diagonal, min_radius))
        u *= inverse
        v *= inverse
    if GAUSSIAN:
        if TEMPERATURE != _FIXED:
            if TEMPERATURE == _SMALL_GAIN:  # threshold squared, 1 / gain squared
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
        if ANISOTROPIC:
            along_x = tl.where(in_x, along_x, 0.0)
            along_y = tl.where(in_y, along_y, 0.0)
            value = along_y * along_x
        else:
            near = _square(v, in_y) + _square(u, in_x) < 1.0
            value = tl.where(near, along_y * along_x, 0.0)
    elif ANISOTROPIC:
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


@triton.jit
def tile_patches(BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr) -> tl.tuple:
    """Row and column of every patch of a tile, which is a ``[BLOCK_X / 8, BLOCK_Y, 8]`` tensor.

    Triton spreads such a tensor over a warp as 4 rows of 8 columns, so that a lane holds 4 columns
    of 8 rows and works out 12 positions for 32 patches; of a ``[32, 32]`` one it would hold one
    column of 32 rows, and work out 33.
    """
    group = tl.arange(0, BLOCK_X // _LANES)[:, None, None]
    lane = tl.arange(0, _LANES)[None, None, :]
    return tl.arange(0, BLOCK_Y)[None, :, None], group * _LANES + lane


@triton.jit
def soft_tile(
    xyxy: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    inverse_y: tl.tensor,
    inverse_x: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    patch_y: tl.tensor,
    patch_x: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    numbers: tl.tuple,
    ANISOTROPIC: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    SUBPIXEL: tl.constexpr,
    MERGE: tl.constexpr,
    OWNER: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> tl.tuple:
    """Value and owner of the patches row .. row + BLOCK_Y, column .. column + BLOCK_X.

    Args:
        xyxy: pointer to ``[M, 4]`` float32 boxes; the image's are begin .. end.
        inverse_y: cells a pixel, float64; ``inverse_x`` likewise.
        h, w: cells of the map.
        patch_y, patch_x: cells of a patch.
        row, column: the tile's first patch.
        numbers: as `cass_core.ops.options.mask_options` gives them.
    """
    expansion, min_size = numbers[2], numbers[3]
    top = row * patch_y
    left = column * patch_x
    # Of huge patches a whole tile is more than int32 holds.
    bottom = top + BLOCK_Y * patch_y.to(tl.float32)
    right = left + BLOCK_X * patch_x.to(tl.float32)
    rows, columns = tile_patches(BLOCK_Y, BLOCK_X)
    y = (rows.to(tl.float32) + 0.5) * patch_y
    x = (columns.to(tl.float32) + 0.5) * patch_x
    value = tl.zeros([BLOCK_X // _LANES, BLOCK_Y, _LANES], tl.float32)
    owner = tl.full([BLOCK_X // _LANES, BLOCK_Y, _LANES], -1, tl.int32)
    lane = tl.arange(0, _BOXES)
    start = begin
    while start < end:
        boxes = xyxy + 4 * (start + lane)
        live = start + lane < end
        x1 = tl.load(boxes, mask=live, other=0.0)
        y1 = tl.load(boxes + 1, mask=live, other=0.0)
        x2 = tl.load(boxes + 2, mask=live, other=0.0)
        y2 = tl.load(boxes + 3, mask=live, other=0.0)
        near_x = _may_reach(x1, x2, inverse_x.to(tl.float32), left, right, expansion, min_size)
        near_y = _may_reach(y1, y2, inverse_y.to(tl.float32), top, bottom, expansion, min_size)
        left_over = tl.sum(tl.where(live & near_x & near_y, 1 << lane, 0), axis=0)
        while left_over != 0:
            box = start + _bit_index(left_over & -left_over)
            left_over &= left_over - 1
            found = _box_on_tile(
                xyxy + 4 * box,
                y,
                x,
                inverse_y,
                inverse_x,
                top,
                left,
                h,
                w,
                numbers,
                ANISOTROPIC,
                GAUSSIAN,
                TEMPERATURE,
                SUBPIXEL,
            )
            if MERGE != _MAX:
                value += found
            else:
                if OWNER:
                    owner = tl.where(found > value, box - begin, owner)
                value = tl.maximum(value, found)
        start += _BOXES
    if MERGE == _CLIPPED_SUM:
        value = tl.minimum(value, 1.0)
    return value, owner


@triton.jit
def image_of(
    image: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    SIZES: tl.constexpr,
) -> tl.tuple:
    """First and one past the last box of an image, and the cells a pixel of its axes, float64."""
    begin = tl.load(offsets + image)
    end = tl.load(offsets + image + 1)
    if SIZES:
        inverse_y = h / tl.load(sizes + 2 * image)
        inverse_x = w / tl.load(sizes + 2 * image + 1)
    else:
        inverse_y = h.to(tl.float64) / height.to(tl.float64)
        inverse_x = w.to(tl.float64) / width.to(tl.float64)
    return begin, end, inverse_y, inverse_x
