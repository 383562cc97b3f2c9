"""Launches of the loss kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from cass_core.ops.launch import TILE, MaskArguments, launch
from cass_core.ops.loss_kernels import boxes_kernel, finish_kernel, target_kernel
from cass_core.ops.spec_args import Loss, is_mean, is_per_patch, split_number, split_numbers

_BLOCK = 1024
# That the last kernel adds at once, and its warps: few rounds, as they wait for each other.
_SUMS = 4096
_SUM_WARPS = 16


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
    if programs:
        launch(
            target_kernel,
            programs,
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
            out.variant,
            _BLOCK,
            warps=4,
        )
    return out.finish()


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


def launch_boxes_loss(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_loss`, the target being made from boxes.

    Args:
        logits: of a patch each.
        arguments: the first seven of `cass_core.ops.launch.MaskArguments`, with one feature map,
            and the last four of `launch_loss`.
    """
    given = MaskArguments(*(*arguments[:-4], torch.float32, False))
    levels = given.levels()
    logits = logits.contiguous()
    tiles = given.batch * levels.tiles
    out = _Outputs(logits, tiles, *arguments[-4:])
    if tiles:
        launch(
            boxes_kernel,
            tiles,
            logits,
            *given.boxes,
            out.loss,
            out.grad,
            out.sums,
            given.choices[0],
            levels.sides[0],
            given.scales()[0],
            levels.columns[0],
            levels.numbers,
            levels.ranges[0],
            out.heads,
            out.rests,
            levels.shape,
            out.variant,
            *TILE,
        )
    return out.finish()


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
        heads, rests, variant = _described(
            tuple(choices), tuple(numbers), grad_dtype is not None, divisor is not None
        )
        real = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.programs = programs
        self.loss = logits.new_empty(logits.shape if variant.per_patch else (), dtype=real)
        self.sum = logits.new_empty((), dtype=real)
        self.grad = (
            logits.new_empty(0)
            if grad_dtype is None
            else torch.empty_like(logits, dtype=grad_dtype)
        )
        self.sums = logits.new_empty(programs, dtype=torch.float64)
        self.divisor = self.sums if divisor is None else divisor
        head, rest = split_number(normalizer)
        self.heads, self.rests, self.variant = (*heads, head), (*rests, rest), variant

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Add up; loss, sum, gradient."""
        launch(
            finish_kernel,
            1,
            self.sums,
            self.loss,
            self.sum,
            self.divisor,
            self.programs,
            self.heads,
            self.rests,
            self.variant.per_patch,
            self.variant.weighted,
            _SUMS,
            warps=_SUM_WARPS,
        )
        return self.loss, self.sum, self.grad


@functools.lru_cache(maxsize=64)
def _described(
    choices: tuple[int, ...], numbers: tuple[float, ...], grad: bool, weighted: bool
) -> tuple[tuple[float, ...], tuple[float, ...], Loss]:
    """The numbers of a loss as kernels are launched with them, and what is compiled in."""
    alpha, beta, gamma = (int(n) if n in (0, 1, 2, 3, 4) else -1 for n in numbers[:3])
    flags = is_per_patch(choices), grad, numbers[4] > 0, weighted
    variant = Loss(choices[0], alpha, beta, gamma, *flags)
    return *split_numbers(numbers), variant
