"""Launches of the loss kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from cass_core.grid import patch_grid
from cass_core.ops.launch import on_device
from cass_core.ops.loss_kernels import boxes_kernel, finish_kernel, target_kernel
from cass_core.ops.spec_args import (
    Loss,
    is_mean,
    is_per_patch,
    kernel_numbers,
    kernel_ranges,
    kernel_shape,
    split_numbers,
)
from cass_core.ops.tiles import BLOCK_X, WARPS

_BLOCK = 1024
_SUMS = 1024
# Half the mask's tile: what a loss needs beside the target does not fit the registers otherwise.
_BLOCK_Y = 16


def launch_loss(
    logits: Tensor,
    target: Tensor,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (per patch where that is requested), sum, and gradient or an empty tensor.

    Args:
        logits: of any shape.
        target: of as many patches.
        choices, numbers: as `cass_core.ops.spec_args.loss_options` gives them.
        normalizer: what the sum is divided by.
        grad_dtype: of the gradient; None if not requested.
    """
    return _launch_target(logits, target, choices, numbers, normalizer, grad_dtype, None, None)


def _launch_target(
    logits: Tensor,
    target: Tensor,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
    weights: Tensor | None,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    logits, target = logits.contiguous(), target.contiguous()
    programs = -(-logits.numel() // _BLOCK)
    out = _Outputs(logits, programs, choices, numbers, normalizer, grad_dtype, divisor)
    if out.programs:
        with on_device(logits):
            target_kernel[(out.programs,)](
                logits,
                target,
                target if weights is None else weights.contiguous(),
                out.loss,
                out.grad,
                out.sums,
                out.divisor,
                logits.numel(),
                out.heads,
                out.rests,
                LOSS=out.variant,
                BLOCK=_BLOCK,
            )
    return out.finish(logits)


def launch_weighted_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `launch_loss` with a weight for each patch; the last of its outputs is the normaliser.

    Args:
        weights: of as many patches, float32.
        normalizer: what the sum is divided by, but for the mean, which is over the weights.
    """
    if is_mean(choices):
        divisor = weights.sum(dtype=torch.float64)
    else:
        divisor = weights.new_full((), normalizer, dtype=torch.float64)
    out = _launch_target(logits, target, choices, numbers, normalizer, grad_dtype, weights, divisor)
    return *out, divisor


def launch_boxes_loss(
    logits: Tensor,
    xyxy: Tensor,
    offsets: Tensor,
    sizes: Tensor | None,
    image_size: list[int],
    feature_map: list[int],
    mask_choices: list[int],
    mask_numbers: list[float],
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_loss`, the target being made from boxes; see `launch_masks` for those."""
    patch = mask_choices[0]
    h, w = feature_map
    rows, columns = patch_grid((h, w), patch)
    tiles = (offsets.shape[0] - 1) * -(-rows // _BLOCK_Y) * -(-columns // BLOCK_X)
    logits = logits.contiguous()
    out = _Outputs(logits, tiles, choices, numbers, normalizer, grad_dtype)
    if tiles:
        with on_device(logits):
            boxes_kernel[(tiles,)](
                logits,
                xyxy,
                offsets,
                xyxy if sizes is None else sizes,
                out.loss,
                out.grad,
                out.sums,
                *image_size,
                patch,
                h,
                w,
                columns,
                kernel_numbers(mask_choices, mask_numbers),
                kernel_ranges(mask_numbers, 1)[0],
                out.heads,
                out.rests,
                SHAPE=kernel_shape(mask_choices, mask_numbers, sizes is not None),
                LOSS=out.variant,
                BLOCK_Y=_BLOCK_Y,
                BLOCK_X=BLOCK_X,
                num_warps=WARPS,
                # Boxes are placed as on the CPU, to the last bit of float64.
                enable_fp_fusion=False,
            )
    return out.finish(logits)


class _Outputs:
    """What both launches write to, and how the loss is described to the kernels."""

    def __init__(
        self,
        logits: Tensor,
        programs: int,
        choices: list[int],
        numbers: list[float],
        normalizer: float,
        grad_dtype: torch.dtype | None,
        divisor: Tensor | None = None,
    ) -> None:
        per_patch = is_per_patch(choices)
        real = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.programs = programs
        self.loss = logits.new_empty(logits.shape if per_patch else (), dtype=real)
        self.sum = logits.new_empty((), dtype=real)
        self.grad = (
            logits.new_empty(0)
            if grad_dtype is None
            else torch.empty_like(logits, dtype=grad_dtype)
        )
        self.sums = logits.new_empty(programs, dtype=torch.float64)
        self.divisor = self.sums if divisor is None else divisor
        self.heads, self.rests = split_numbers([*numbers, normalizer])
        whole = tuple(int(n) if n in (0, 1, 2, 3, 4) else -1 for n in numbers[:3])
        self.variant = Loss(
            choices[0],
            whole,
            per_patch,
            grad_dtype is not None,
            numbers[4] > 0,
            divisor is not None,
        )

    def finish(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add up; loss, sum, gradient."""
        with on_device(logits):
            finish_kernel[(1,)](
                self.sums,
                self.loss,
                self.sum,
                self.divisor,
                self.programs,
                self.heads,
                self.rests,
                PER_PATCH=self.variant.per_patch,
                WEIGHTED=self.variant.weighted,
                BLOCK=_SUMS,
            )
        return self.loss, self.sum, self.grad
