"""The soft target of one tile of patches, made in registers: what every kernel here shares.

A tile first finds the boxes that can reach it at all, 32 at a time, and then takes those alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.ops.geometry import box_on_tile, place_boxes
from cass_core.specs.enums import MERGES

# Boxes that are looked at together; one bit of an int32 each.
_BOXES = tl.constexpr(32)
# Neighbouring columns that lie in neighbouring lanes.
_LANES = tl.constexpr(8)

_MAX = tl.constexpr(MERGES["max"])
_CLIPPED_SUM = tl.constexpr(MERGES["clipped_sum"])


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
def _bit_index(bit: tl.tensor) -> tl.tensor:
    """The index of the one bit that is set, which is a float32's exponent."""
    return ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255) - 127


@triton.jit
def _tile_patches(BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr) -> tl.tuple:
    """Row and column of every patch of a tile, which is a ``[BLOCK_X / 8, BLOCK_Y, 8]`` tensor.

    Triton spreads such a tensor over a warp as 4 rows of 8 columns, so that a lane holds 4 columns
    of 4 rows and works out 8 positions for 16 patches; of a ``[16, 32]`` one it would hold one
    column of 16 rows, and work out 17.
    """
    group = tl.arange(0, BLOCK_X // _LANES)[:, None, None]
    lane = tl.arange(0, _LANES)[None, None, :]
    return tl.arange(0, BLOCK_Y)[None, :, None], group * _LANES + lane


@triton.jit
def locate(
    tile: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    VECTOR: tl.constexpr = _LANES,
) -> tl.tuple:
    """Where a tile of a batch's feature map lies; the tiles of the first image come first.

    Returns its image, its first row and column, the offset of each of its patches in the flat
    output of the map, and whether there is such a patch.

    Args:
        VECTOR: how many neighbouring columns a lane takes, at most.
    """
    # Unsigned, since a division of signed numbers takes half as long again.
    # A single column is compiled in, and is no tensor.
    across = tl.cast(tl.cdiv(columns, BLOCK_X), tl.uint32)
    down = tl.cast(tl.cdiv(rows, BLOCK_Y), tl.uint32)
    line = tile.to(tl.uint32) // across
    column = (tile.to(tl.uint32) - line * across).to(tl.int32) * BLOCK_X
    image = line // down
    row = (line - image * down).to(tl.int32) * BLOCK_Y
    image = image.to(tl.int32)
    r, c = _tile_patches(BLOCK_Y, BLOCK_X)
    r += row
    c += column
    offset = tl.max_contiguous(
        image.to(tl.int64) * rows * columns + r * columns + c, [1, 1, VECTOR]
    )
    return image, row, column, offset, (r < rows) & (c < columns)


@triton.jit
def sides(halves: tl.tuple) -> tl.tuple:
    """(h, w) of a map and its rows of patches, of `cass_core.ops.spec_args.kernel_sides`."""
    h = tl.cast(halves[0], tl.int32) * 65536 + tl.cast(halves[1], tl.int32)
    w = tl.cast(halves[2], tl.int32) * 65536 + tl.cast(halves[3], tl.int32)
    rows = tl.cast(halves[4], tl.int32) * 65536 + tl.cast(halves[5], tl.int32)
    return h, w, rows


@triton.jit
def image_of(
    image: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    scale: tl.tuple,
    cells: tl.tuple,
    SIZES: tl.constexpr,
) -> tl.tuple:
    """First and one past the last box of an image, and the cells a pixel of its axes, float64.

    Args:
        scale: the latter, of `cass_core.ops.spec_args.kernel_scale`, where images have one size.
    """
    begin = tl.load(offsets + image)
    end = tl.load(offsets + image + 1)
    if SIZES:
        inverse_y = cells[0] / tl.load(sizes + 2 * image)
        inverse_x = cells[1] / tl.load(sizes + 2 * image + 1)
    else:
        inverse_y = tl.cast(scale[0], tl.float64) + scale[1] + scale[2]
        inverse_x = tl.cast(scale[3], tl.float64) + scale[4] + scale[5]
    return begin, end, inverse_y, inverse_x


@triton.jit
def is_of_level(
    x1: tl.tensor, y1: tl.tensor, x2: tl.tensor, y2: tl.tensor, bounds: tl.tuple
) -> tl.tensor:
    """Whether boxes take part in a level by their longer side, in float64 as on the CPU.

    Args:
        bounds: as of `cass_core.ops.spec_args.kernel_ranges`.
    """
    width = x2.to(tl.float64) - x1.to(tl.float64)
    longer = tl.maximum(width, y2.to(tl.float64) - y1.to(tl.float64))
    over = tl.cast(bounds[0], tl.float64) + tl.cast(bounds[2], tl.float64)
    longest = tl.cast(bounds[1], tl.float64) + tl.cast(bounds[3], tl.float64)
    return (longer > over) & (longer <= longest)


@triton.jit
def tile_centres(
    row: tl.tensor,
    column: tl.tensor,
    cells: tl.tuple,
    patch: tl.tensor,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> tl.tuple:
    """First cell of a tile along y and x, and where its patches have their centres from there."""
    patch_y = tl.minimum(patch, cells[0])
    patch_x = tl.minimum(patch, cells[1])
    rows, columns = _tile_patches(BLOCK_Y, BLOCK_X)
    y = (rows.to(tl.float32) + 0.5) * patch_y
    x = (columns.to(tl.float32) + 0.5) * patch_x
    return row * patch_y, column * patch_x, y, x


@triton.jit
def soft_tile(
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    boxes: tl.tuple,
    scale: tl.tuple,
    cells: tl.tuple,
    patch: tl.tensor,
    numbers: tl.tuple,
    bounds: tl.tuple,
    SHAPE: tl.constexpr,
    OWNER: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> tl.tuple:
    """An image's patches row .. row + BLOCK_Y, column .. column + BLOCK_X.

    Returns their values and owners, and whether any box may reach them: else both are as without
    boxes.

    Args:
        boxes: pointers to xyxy, offsets and sizes, as of `cass_core.ops.masks.launch_masks`.
        scale: as of `image_of`; without meaning where SHAPE.sizes is true.
        cells: (h, w) of the map.
        patch: cells of a patch's side.
        numbers, SHAPE: as of `cass_core.ops.geometry.place_boxes`.
        bounds: as of `is_of_level`; without meaning where SHAPE.ranges is false.
    """
    expansion, min_size = numbers[2], numbers[3]
    xyxy, offsets, sizes = boxes
    begin, end, inverse_y, inverse_x = image_of(image, offsets, sizes, scale, cells, SHAPE.sizes)
    patch_y = tl.minimum(patch, cells[0])
    patch_x = tl.minimum(patch, cells[1])
    top, left, y, x = tile_centres(row, column, cells, patch, BLOCK_Y, BLOCK_X)
    # Of huge patches a whole tile is more than int32 holds.
    bottom = top + BLOCK_Y * patch_y.to(tl.float32)
    right = left + BLOCK_X * patch_x.to(tl.float32)
    value = tl.zeros([BLOCK_X // _LANES, BLOCK_Y, _LANES], tl.float32)
    owner = tl.full([BLOCK_X // _LANES, BLOCK_Y, _LANES], -1, tl.int32)
    lane = tl.arange(0, _BOXES)
    is_reached = begin < begin
    start = begin
    while start < end:
        corners = xyxy + 4 * (start + lane)
        live = start + lane < end
        x1 = tl.load(corners, mask=live, other=0.0)
        y1 = tl.load(corners + 1, mask=live, other=0.0)
        x2 = tl.load(corners + 2, mask=live, other=0.0)
        y2 = tl.load(corners + 3, mask=live, other=0.0)
        if SHAPE.ranges:
            live &= is_of_level(x1, y1, x2, y2, bounds)
        near_x = _may_reach(x1, x2, inverse_x.to(tl.float32), left, right, expansion, min_size)
        near_y = _may_reach(y1, y2, inverse_y.to(tl.float32), top, bottom, expansion, min_size)
        left_over = tl.sum(tl.where(live & near_x & near_y, 1 << lane, 0), axis=0)
        if left_over != 0:
            is_reached = True
            placed = place_boxes(
                (x1, y1, x2, y2), (inverse_y, inverse_x), (top, left), cells, numbers, SHAPE
            )
            while left_over != 0:
                index = _bit_index(left_over & -left_over)
                left_over &= left_over - 1
                found = box_on_tile((y, x), index, placed, SHAPE)
                if SHAPE.merge != _MAX:
                    value += found
                else:
                    if OWNER:
                        owner = tl.where(found > value, start + index - begin, owner)
                    value = tl.maximum(value, found)
        start += _BOXES
    if SHAPE.merge == _CLIPPED_SUM:
        value = tl.minimum(value, 1.0)
    return value, owner, is_reached
