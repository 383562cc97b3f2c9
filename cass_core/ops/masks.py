"""Masks of a batch on all its feature maps, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cass_core.grid import patch_grid
from cass_core.ops.launch import on_device
from cass_core.ops.spec_args import kernel_cells, kernel_numbers, kernel_ranges, kernel_shape
from cass_core.ops.tiles import BLOCK_X, BLOCK_Y, WARPS, locate, sides, soft_tile


@triton.jit(do_not_specialize=["batch", "height", "width", "patch"])
def _mask_kernel(
    xyxy: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    mask: tl.tensor,
    owners: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    patch: tl.tensor,
    cells: tl.tuple,
    columns: tl.tuple,
    numbers: tl.tuple,
    ranges: tl.tuple,
    SHAPE: tl.constexpr,
    OWNER: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> None:
    """One program a tile; the tiles of the first map come first.

    ``cells`` holds the sides of each map as `sides` takes them, ``ranges`` the bounds of its
    boxes' longer sides, ``columns`` its patches a row: whether those are a multiple of 16 is
    compiled in, since it decides how wide a store can be.
    """
    tile = tl.program_id(0)
    map_start = tl.zeros([], tl.int64)
    for i in tl.static_range(len(columns)):
        h, w = sides(cells[i])
        rows = tl.cdiv(h, tl.minimum(patch, h))
        tiles = batch * tl.cdiv(rows, BLOCK_Y) * tl.cdiv(columns[i], BLOCK_X)
        if (tile >= 0) & (tile < tiles):
            image, row, column, offset, inside = locate(
                tile, h, w, patch, columns[i], BLOCK_Y, BLOCK_X
            )
            offset += map_start
            value, owner = soft_tile(
                image,
                row,
                column,
                (xyxy, offsets, sizes),
                (height, width),
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
        map_start += (batch * rows).to(tl.int64) * columns[i]


def launch_masks(
    xyxy: Tensor,
    offsets: Tensor,
    sizes: Tensor | None,
    image_size: list[int],
    feature_maps: list[int],
    choices: list[int],
    numbers: list[float],
    dtype: torch.dtype,
    return_owner: bool,
) -> tuple[Tensor, Tensor]:
    """Masks of all feature maps, one after the other in one flat tensor; and their owners.

    Args:
        xyxy: ``[M, 4]`` float32.
        offsets: ``[B + 1]`` int32.
        sizes: ``[B, 2]`` float64 heights and widths; None where `image_size` is every image's.
        image_size: height and width.
        feature_maps: h and w of each map in turn.
        choices, numbers: as `cass_core.ops.spec_args.mask_options` gives them.
        dtype: of the masks.
        return_owner: whether owners are requested; else they come empty.
    """
    batch = offsets.shape[0] - 1
    patch = choices[0]
    cells = tuple(zip(feature_maps[::2], feature_maps[1::2], strict=True))
    grids = [patch_grid(pair, patch) for pair in cells]
    size = batch * sum(rows * columns for rows, columns in grids)
    mask = torch.empty(size, dtype=dtype, device=xyxy.device)
    owner = torch.empty(size if return_owner else 0, dtype=torch.int32, device=xyxy.device)
    tiles = batch * sum(-(-rows // BLOCK_Y) * -(-columns // BLOCK_X) for rows, columns in grids)
    if tiles:
        with on_device(xyxy):
            _mask_kernel[(tiles,)](
                xyxy,
                offsets,
                xyxy if sizes is None else sizes,
                mask,
                owner,
                batch,
                *image_size,
                patch,
                kernel_cells(cells),
                tuple(columns for _, columns in grids),
                kernel_numbers(choices, numbers),
                kernel_ranges(numbers, len(cells)),
                SHAPE=kernel_shape(choices, numbers, sizes is not None),
                OWNER=return_owner,
                BLOCK_Y=BLOCK_Y,
                BLOCK_X=BLOCK_X,
                num_warps=WARPS,
                # Boxes are placed and values made whole as on the CPU, to the last bit.
                enable_fp_fusion=False,
            )
    return mask, owner
