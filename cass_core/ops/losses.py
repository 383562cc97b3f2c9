"""Loss and gradient in one pass over the logits, against a target or straight from boxes.

Each program sums its own patches; a second, small kernel adds those sums up in a fixed order, in
float64, so that the same input gives the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cass_core.grid import patch_grid
from cass_core.ops.launch import on_device
from cass_core.ops.loss_math import loss_and_slope
from cass_core.ops.spec_args import kernel_numbers, split_numbers
from cass_core.ops.tiles import BLOCK_X, WARPS, locate, soft_tile

_BLOCK = 1024
_SUMS = 1024
# Half the mask's tile: what a loss needs beside the target does not fit the registers otherwise.
_BLOCK_Y = 16


@triton.jit
def _number(heads: tl.tuple, rests: tl.tuple, i: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Number i: launched as two float32, since there is no other float to launch with."""
    number = tl.cast(heads[i], dtype)
    if dtype == tl.float64:
        number += tl.cast(rests[i], dtype)
    return number


@triton.jit
def _write(
    s: tl.tensor,
    y: tl.tensor,
    inside: tl.tensor,
    place: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    KIND: tl.constexpr,
    WHOLE: tl.constexpr,
    PER_PATCH: tl.constexpr,
    GRAD: tl.constexpr,
) -> tl.tensor:
    """Store losses and gradient of these patches where they are asked for; the losses' sum."""
    parameters = (
        _number(heads, rests, 0, s.dtype),
        _number(heads, rests, 1, s.dtype),
        _number(heads, rests, 2, s.dtype),
        _number(heads, rests, 3, s.dtype),
    )
    loss, slope = loss_and_slope(s, y, parameters, KIND, WHOLE)
    if PER_PATCH:
        tl.store(losses + place, loss, mask=inside)
    if GRAD:
        scale = 1.0 / _number(heads, rests, 4, s.dtype)
        tl.store(grad + place, (slope * scale).to(grad.dtype.element_ty), mask=inside)
    return tl.sum(tl.ravel(tl.where(inside, loss, 0.0))).to(tl.float64)


@triton.jit(do_not_specialize=["heads", "rests"])
def _target_kernel(
    logits: tl.tensor,
    target: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    KIND: tl.constexpr,
    WHOLE: tl.constexpr,
    PER_PATCH: tl.constexpr,
    GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a block of the flat logits."""
    program = tl.program_id(0)
    place = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    real = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    s = tl.load(logits + place, mask=inside, other=0.0).to(real)
    y = tl.load(target + place, mask=inside, other=0.0)
    if target.dtype.element_ty == tl.uint8:
        y = tl.div_rn(y.to(tl.float32), 255.0)
    total = _write(
        s, y.to(real), inside, place, losses, grad, heads, rests, KIND, WHOLE, PER_PATCH, GRAD
    )
    tl.store(sums + program, total)


@triton.jit(do_not_specialize=["height", "width", "patch", "h", "w", "heads", "rests"])
def _boxes_kernel(
    logits: tl.tensor,
    xyxy: tl.tensor,
    offsets: tl.tensor,
    sizes: tl.tensor,
    losses: tl.tensor,
    grad: tl.tensor,
    sums: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    patch: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    columns: tl.tensor,
    numbers: tl.tuple,
    heads: tl.tuple,
    rests: tl.tuple,
    ANISOTROPIC: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    SUBPIXEL: tl.constexpr,
    MERGE: tl.constexpr,
    SIZES: tl.constexpr,
    KIND: tl.constexpr,
    WHOLE: tl.constexpr,
    PER_PATCH: tl.constexpr,
    GRAD: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
) -> None:
    """One program a tile; its target stays in registers."""
    tile = tl.program_id(0)
    image, row, column, place, inside = locate(tile, h, w, patch, columns, BLOCK_Y, BLOCK_X)
    real = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    # Asked for before the boxes are: it arrives while they are worked on.
    s = tl.load(logits + place, mask=inside, other=0.0).to(real)
    y, _ = soft_tile(
        image,
        row,
        column,
        xyxy,
        offsets,
        sizes,
        height,
        width,
        h,
        w,
        patch,
        numbers,
        ANISOTROPIC,
        GAUSSIAN,
        TEMPERATURE,
        SUBPIXEL,
        MERGE,
        SIZES,
        False,
        BLOCK_Y,
        BLOCK_X,
    )
    total = _write(
        s, y.to(real), inside, place, losses, grad, heads, rests, KIND, WHOLE, PER_PATCH, GRAD
    )
    tl.store(sums + tile, total)


@triton.jit(do_not_specialize=["count", "heads", "rests"])
def _finish_kernel(
    sums: tl.tensor,
    loss: tl.tensor,
    whole: tl.tensor,
    count: tl.tensor,
    heads: tl.tuple,
    rests: tl.tuple,
    PER_PATCH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The sum and, but where the loss is per patch, the reduced loss, from the programs' sums."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    start = 0
    while start < count:
        total += tl.load(sums + start + lane, mask=start + lane < count, other=0.0)
        start += BLOCK
    result = tl.sum(total)
    tl.store(whole, result.to(whole.dtype.element_ty))
    if not PER_PATCH:
        result /= _number(heads, rests, 4, tl.float64)
        tl.store(loss, result.to(loss.dtype.element_ty))


def launch_loss(
    logits: Tensor,
    target: Tensor,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (per patch where that is asked for), sum, and gradient or an empty tensor.

    Args:
        logits: of any shape, contiguous.
        target: of as many patches, contiguous.
        choices, numbers: as `cass_core.ops.spec_args.loss_options` gives them.
        normalizer: what the sum is divided by.
        grad_dtype: of the gradient; None where nobody asks for one.
    """
    out = _Outputs(logits, -(-logits.numel() // _BLOCK), choices, numbers, normalizer, grad_dtype)
    if out.programs:
        with on_device(logits):
            _target_kernel[(out.programs,)](
                logits,
                target,
                out.loss,
                out.grad,
                out.sums,
                logits.numel(),
                out.heads,
                out.rests,
                **out.options,
                BLOCK=_BLOCK,
            )
    return out.finish(logits)


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
    patch, anisotropic, gaussian, temperature, subpixel, merge = mask_choices
    h, w = feature_map
    rows, columns = patch_grid((h, w), patch)
    tiles = (offsets.shape[0] - 1) * -(-rows // _BLOCK_Y) * -(-columns // BLOCK_X)
    out = _Outputs(logits, tiles, choices, numbers, normalizer, grad_dtype)
    if tiles:
        with on_device(logits):
            _boxes_kernel[(tiles,)](
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
                out.heads,
                out.rests,
                ANISOTROPIC=bool(anisotropic),
                GAUSSIAN=bool(gaussian),
                TEMPERATURE=temperature,
                SUBPIXEL=bool(subpixel),
                MERGE=merge,
                SIZES=sizes is not None,
                **out.options,
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
    ) -> None:
        kind, per_patch = choices
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
        self.heads, self.rests = split_numbers([*numbers, normalizer])
        self.options = {
            "KIND": kind,
            "WHOLE": tuple(int(n) if n in (0, 1, 2, 3, 4) else -1 for n in numbers[:3]),
            "PER_PATCH": per_patch,
            "GRAD": grad_dtype is not None,
        }

    def finish(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add up; loss, sum, gradient."""
        with on_device(logits):
            _finish_kernel[(1,)](
                self.sums,
                self.loss,
                self.sum,
                self.programs,
                self.heads,
                self.rests,
                PER_PATCH=self.options["PER_PATCH"],
                BLOCK=_SUMS,
            )
        return self.loss, self.sum, self.grad
