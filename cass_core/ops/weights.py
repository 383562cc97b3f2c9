"""Masks and weights of a batch on all its feature maps, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from cass_core.grid import patch_grid
from cass_core.ops.launch import on_device
from cass_core.ops.spec_args import Weigh, kernel_cells, kernel_numbers, kernel_ranges, kernel_shape
from cass_core.ops.tiles import BLOCK_X, WARPS
from cass_core.ops.weight_kernels import share_kernel, weighted_kernel

# Half the mask's tile: what a weight needs beside the mask does not fit the registers otherwise.
_BLOCK_Y = 16
_BLOCK = 1024


def launch_weighted_masks(
    xyxy: Tensor,
    offsets: Tensor,
    sizes: Tensor | None,
    image_size: list[int],
    feature_maps: list[int],
    choices: list[int],
    numbers: list[float],
    dtype: torch.dtype,
    return_owner: bool,
    valid_region: Tensor | None,
    ignored: Tensor | None,
    ignored_offsets: Tensor | None,
    box_weights: Tensor | None,
    balanced: bool,
    background_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `cass_core.ops.masks.launch_masks`, and the weights of all feature maps.

    Args:
        valid_region: ``[B, 4]`` float32 or None.
        ignored, ignored_offsets: ``[N, 4]`` float32 and ``[B + 1]`` int32, or None.
        box_weights: ``[M]`` float32 or None.
        balanced: whether objects have the same share each.
        background_weight: of patches without a value.
    """
    batch = offsets.shape[0] - 1
    patch = choices[0]
    cells = tuple(zip(feature_maps[::2], feature_maps[1::2], strict=True))
    grids = [patch_grid(pair, patch) for pair in cells]
    size = batch * sum(rows * columns for rows, columns in grids)
    needs_owner = balanced or box_weights is not None
    weigh = Weigh(
        return_owner or needs_owner, balanced, valid_region is not None, ignored is not None
    )
    mask = torch.empty(size, dtype=dtype, device=xyxy.device)
    owner = torch.empty(size if weigh.owner else 0, dtype=torch.int32, device=xyxy.device)
    weights = torch.empty(size, dtype=torch.float32, device=xyxy.device)
    counts = torch.zeros(len(xyxy) if balanced else 0, dtype=torch.int32, device=xyxy.device)
    tiles = batch * sum(-(-rows // _BLOCK_Y) * -(-columns // BLOCK_X) for rows, columns in grids)
    if not tiles:
        return mask, owner if return_owner else owner[:0], weights
    with on_device(xyxy):
        weighted_kernel[(tiles,)](
            xyxy,
            offsets,
            xyxy if sizes is None else sizes,
            xyxy if valid_region is None else valid_region.contiguous(),
            xyxy if ignored is None else ignored,
            offsets if ignored_offsets is None else ignored_offsets,
            mask,
            owner,
            weights,
            counts,
            batch,
            *image_size,
            patch,
            min(background_weight, 3e38),
            kernel_cells(cells),
            tuple(columns for _, columns in grids),
            kernel_numbers(choices, numbers),
            kernel_ranges(numbers, len(cells)),
            SHAPE=kernel_shape(choices, numbers, sizes is not None),
            WEIGH=weigh,
            BLOCK_Y=_BLOCK_Y,
            BLOCK_X=BLOCK_X,
            num_warps=WARPS,
            # As for the masks alone.
            enable_fp_fusion=False,
        )
        if needs_owner:
            _share_out(owner, offsets, _shares(counts, box_weights, balanced), weights, grids)
    return mask, owner if return_owner else owner[:0], weights


def _shares(counts: Tensor, box_weights: Tensor | None, balanced: bool) -> Tensor:
    """What the patches of each box weigh, ``[M]`` float32."""
    if not balanced:
        assert box_weights is not None  # by launch_weighted_masks
        return box_weights.contiguous()
    patches = counts.double()
    objects = torch.count_nonzero(counts)
    shares = patches.sum() / torch.clamp(patches * objects, min=1.0)
    shares = shares if box_weights is None else shares * box_weights
    return shares.clamp(max=torch.finfo(torch.float32).max).float()


def _share_out(
    owner: Tensor,
    offsets: Tensor,
    shares: Tensor,
    weights: Tensor,
    grids: list[tuple[int, int]],
) -> None:
    start = 0
    for rows, columns in grids:
        count = (offsets.shape[0] - 1) * rows * columns
        share_kernel[(-(-count // _BLOCK),)](
            owner, offsets, shares, weights, start, rows * columns, count, BLOCK=_BLOCK
        )
        start += count
