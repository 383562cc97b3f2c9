"""Kernels of masks with weights: a mask and what step 1 leaves of its weights; owners' shares."""

from __future__ import annotations

import triton
import triton.language as tl

from cass_core.ops.geometry import before
from cass_core.ops.tiles import image_of, is_of_level, locate, sides, soft_tile, tile_centres


@triton.jit
def _within(at: tl.tensor, low: tl.tensor, high: tl.tensor, origin: tl.tensor) -> tl.tensor:
    """Whether patch centres lie between two edges or on one, decided in float64."""
    origin = origin.to(tl.float32)
    return (before(at, low, origin) >= 0.0) & (before(at, high, origin) <= 0.0)


@triton.jit
def _side(low: tl.tensor, high: tl.tensor, inverse: tl.tensor, min_size: tl.tensor) -> tl.tuple:
    """Ends of a box's side in cells, by the operations of the masks."""
    low = low.to(tl.float64)
    high = high.to(tl.float64)
    length = (high - low) * inverse
    low = low * inverse
    high = high * inverse
    centre = 0.5 * (low + high)
    short = length < min_size
    low = tl.where(short, centre - 0.5 * min_size, low)
    high = tl.where(short, centre + 0.5 * min_size, high)
    return low, high


@triton.jit
def _in_box(box: tl.tensor, at: tl.tuple, origin: tl.tuple, inverse: tl.tuple) -> tl.tensor:
    """Whether patch centres lie in a box of pixels, given by a pointer at its four sides."""
    x1 = tl.load(box).to(tl.float64) * inverse[1]
    y1 = tl.load(box + 1).to(tl.float64) * inverse[0]
    x2 = tl.load(box + 2).to(tl.float64) * inverse[1]
    y2 = tl.load(box + 3).to(tl.float64) * inverse[0]
    return _within(at[0], y1, y2, origin[0]) & _within(at[1], x1, x2, origin[1])


@triton.jit
def _left_out(
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    boxes: tl.tuple,
    regions: tl.tuple,
    scale: tl.tuple,
    cells: tl.tuple,
    patch: tl.tensor,
    numbers: tl.tuple,
    bounds: tl.tuple,
    SHAPE: tl.constexpr,
    WEIGH: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> tl.tensor:
    """Step 1 of the weights: which patches of a tile are outside, or ignored and in no core."""
    xyxy, offsets, sizes = boxes
    valid_region, ignored, ignored_offsets = regions
    begin, end, inverse_y, inverse_x = image_of(image, offsets, sizes, scale, cells, SHAPE.sizes)
    inverse = (inverse_y, inverse_x)
    top, left, y, x = tile_centres(row, column, cells, patch, BLOCK_Y, BLOCK_X)
    found = (y + x) < 0.0  # nowhere
    if WEIGH.ignore:
        box = tl.load(ignored_offsets + image)
        behind = tl.load(ignored_offsets + image + 1)
        while box < behind:
            found |= _in_box(ignored + 4 * box, (y, x), (top, left), inverse)
            box += 1
        if tl.max(tl.ravel(found.to(tl.int32)), axis=0) > 0:
            min_size = tl.cast(numbers[3], tl.float64) + numbers[1]
            box = begin
            while box < end:
                corners = xyxy + 4 * box
                x1 = tl.load(corners)
                y1 = tl.load(corners + 1)
                x2 = tl.load(corners + 2)
                y2 = tl.load(corners + 3)
                low, high = _side(y1, y2, inverse_y, min_size)
                near, far = _side(x1, x2, inverse_x, min_size)
                high = tl.minimum(high, tl.cast(cells[0], tl.float64))
                far = tl.minimum(far, tl.cast(cells[1], tl.float64))
                core = _within(y, low, high, top) & _within(x, near, far, left)
                if SHAPE.ranges:
                    core = tl.where(is_of_level(x1, y1, x2, y2, bounds), core, False)
                found &= ~core
                box += 1
    if WEIGH.valid:
        found |= ~_in_box(valid_region + 4 * image, (y, x), (top, left), inverse)
    return found


@triton.jit(do_not_specialize=["batch", "patch"])
def weighted_kernel(
    xyxy: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    valid_region: tl.tensor,
    ignored: tl.tensor,
    ignored_offsets: tl.tensor,
    mask: tl.tensor,
    owners: tl.tensor,
    weights: tl.tensor,
    counts: tl.tensor,
    batch: tl.tensor,
    patch: tl.tensor,
    background: tl.tensor,
    cells: tl.tuple,
    scales: tl.tuple,
    columns: tl.tuple,
    numbers: tl.tuple,
    ranges: tl.tuple,
    SHAPE: tl.constexpr,
    WEIGH: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> None:
    """One program a tile, as `cass_core.ops.masks` has them; weights are of 1 where there is a box.

    ``counts`` gets the patches that weigh anything and are each box's own: whole numbers, whose sum
    is the same in any order.
    """
    tile = tl.program_id(0)
    map_start = tl.zeros([], tl.int64)
    for i in tl.static_range(len(columns)):
        h, w, rows = sides(cells[i])
        tiles = batch * tl.cdiv(rows, BLOCK_Y) * tl.cdiv(columns[i], BLOCK_X)
        if (tile >= 0) & (tile < tiles):
            image, row, column, offset, inside = locate(tile, rows, columns[i], BLOCK_Y, BLOCK_X)
            offset += map_start
            boxes = (xyxy, offsets, sizes)
            value, owner, _ = soft_tile(
                image, row, column, boxes, scales[i], (h, w), patch, numbers, ranges[i],
                SHAPE, WEIGH.owner, BLOCK_Y, BLOCK_X,
            )  # fmt: skip
            left_out = _left_out(
                image, row, column, boxes, (valid_region, ignored, ignored_offsets),
                scales[i], (h, w), patch, numbers, ranges[i],
                SHAPE, WEIGH, BLOCK_Y, BLOCK_X,
            )  # fmt: skip
            weight = tl.where(value != 0.0, 1.0, tl.cast(background, tl.float32))
            weight = tl.where(left_out, 0.0, weight)
            tl.store(weights + offset, weight, mask=inside)
            if WEIGH.owner:
                tl.store(owners + offset, owner, mask=inside)
            if WEIGH.counts:
                box = tl.load(offsets + image) + owner
                is_own = inside & (owner >= 0) & ~left_out
                tl.atomic_add(counts + box, 1, mask=is_own, sem="relaxed")
            if mask.dtype.element_ty == tl.uint8:
                # As in `cass_core.ops.masks`.
                value = (value * 255.0 + 8388608.0) - 8388608.0
            tl.store(mask + offset, value.to(mask.dtype.element_ty), mask=inside)
        tile -= tiles
        map_start += batch.to(tl.int64) * rows * columns[i]


@triton.jit(do_not_specialize=["start", "per_image", "count"])
def share_kernel(
    owners: tl.tensor,
    offsets: tl.tensor,
    shares: tl.tensor,
    weights: tl.tensor,
    start: tl.tensor,
    per_image: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Give the patches of one feature map that have an owner, and a weight, the owner's share."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < count
    owner = tl.load(owners + start + offset, mask=inside, other=-1)
    weight = tl.load(weights + start + offset, mask=inside, other=0.0)
    is_own = (owner >= 0) & (weight > 0.0)
    box = tl.load(offsets + offset // per_image, mask=inside, other=0) + owner
    share = tl.load(shares + box, mask=is_own, other=0.0)
    tl.store(weights + start + offset, share, mask=is_own)
