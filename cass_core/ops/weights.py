"""Masks and weights of a batch on all its feature maps, without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cass_core.ops.launch import TILE, MaskArguments, launch
from cass_core.ops.spec_args import LARGEST, Weigh
from cass_core.ops.weight_kernels import share_kernel, weighted_kernel

_BLOCK = 1024


def launch_weighted_masks(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As `cass_core.ops.masks.launch_masks`, and the weights of all feature maps.

    Args:
        arguments: as of `launch_masks`, and behind them ``[B, 4]`` float32 valid regions or None;
            ``[N, 4]`` float32 ignored boxes and their ``[B + 1]`` int32 offsets, or None; ``[M]``
            float32 weights of boxes or None; whether objects have the same share each; and what
            patches without a value weigh.
    """
    given = MaskArguments(*arguments[:-6])
    valid_region, ignored, ignored_offsets, box_weights, balanced, background = arguments[-6:]
    levels = given.levels()
    needs_owner = balanced or box_weights is not None
    weigh = Weigh(
        given.return_owner or needs_owner, balanced, valid_region is not None, ignored is not None
    )
    mask, owner = given.outputs(weigh.owner)
    weights = mask.new_empty(mask.shape, dtype=torch.float32)
    xyxy = given.xyxy
    counts = owner.new_zeros(len(xyxy) if balanced else 0)
    if mask.shape[0]:
        launch(
            weighted_kernel,
            given.batch * levels.tiles,
            *given.boxes,
            xyxy if valid_region is None else valid_region.contiguous(),
            xyxy if ignored is None else ignored,
            given.offsets if ignored_offsets is None else ignored_offsets,
            mask,
            owner,
            weights,
            counts,
            given.batch,
            given.choices[0],
            min(background, LARGEST),
            levels.sides,
            given.scales(),
            levels.columns,
            levels.numbers,
            levels.ranges,
            levels.shape,
            weigh,
            *TILE,
        )
        if needs_owner:
            shares = _shares(counts, box_weights, balanced)
            start = 0
            for rows, columns in levels.grids:
                patches = rows * columns
                count = given.batch * patches
                arrays = owner, given.offsets, shares, weights
                programs = -(-count // _BLOCK)
                numbers = start, patches, count
                launch(share_kernel, programs, *arrays, *numbers, _BLOCK, warps=4)
                start += count
    return mask, owner if given.return_owner else owner[:0], weights


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
