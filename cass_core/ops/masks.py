"""Masks of a batch on all its feature maps, in one launch."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from cass_core.ops.launch import TILE, MaskArguments, launch
from cass_core.ops.tiles import locate, sides, soft_tile


@triton.jit(do_not_specialize=["batch", "patch"])
def _mask_kernel(
    xyxy: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    mask: tl.tensor,
    owners: tl.tensor,
    batch: tl.tensor,
    patch: tl.tensor,
    cells: tl.tuple,
    scales: tl.tuple,
    columns: tl.tuple,
    numbers: tl.tuple,
    ranges: tl.tuple,
    SHAPE: tl.constexpr,
    OWNER: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> None:
    """One program a tile; the tiles of the first map come first.

    ``cells`` holds the sides of each map as `sides` takes them, ``scales`` its cells a pixel as
    `image_of` does, ``ranges`` the bounds of its boxes' longer sides, ``columns`` its patches a
    row: whether those are a multiple of 16 is compiled in, since it decides how wide a store can
    be.
    """
    tile = tl.program_id(0)
    map_start = tl.zeros([], tl.int64)
    for i in tl.static_range(len(columns)):
        h, w, rows = sides(cells[i])
        tiles = batch * tl.cdiv(rows, BLOCK_Y) * tl.cdiv(columns[i], BLOCK_X)
        if (tile >= 0) & (tile < tiles):
            image, row, column, offset, inside = locate(tile, rows, columns[i], BLOCK_Y, BLOCK_X)
            offset += map_start
            value, owner, _ = soft_tile(
                image,
                row,
                column,
                (xyxy, offsets, sizes),
                scales[i],
                (h, w),
                patch,
                numbers,
                ranges[i],
                SHAPE,
                OWNER,
                BLOCK_Y,
                BLOCK_X,
            )
            if mask.dtype.element_ty == tl.uint8:
                # Adding 2^23 leaves a number below it rounded to a whole one, ties to even.
                value = (value * 255.0 + 8388608.0) - 8388608.0
            tl.store(mask + offset, value.to(mask.dtype.element_ty), mask=inside)
            if OWNER:
                tl.store(owners + offset, owner, mask=inside)
        tile -= tiles
        map_start += batch.to(tl.int64) * rows * columns[i]


def launch_masks(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Masks of all feature maps, one after the other in one flat tensor; and their owners.

    Args:
        arguments: as `cass_core.ops.launch.MaskArguments` has them.
    """
    given = MaskArguments(*arguments)
    levels = given.levels()
    mask, owner = given.outputs(given.return_owner)
    if mask.shape[0]:
        launch(
            _mask_kernel,
            given.batch * levels.tiles,
            *given.boxes,
            mask,
            owner,
            given.batch,
            given.choices[0],
            levels.sides,
            given.scales(),
            levels.columns,
            levels.numbers,
            levels.ranges,
            levels.shape,
            given.return_owner,
            *TILE,
        )
    return mask, owner
