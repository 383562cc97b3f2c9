"""The gradient times the outer one, in place, and untouched where that is 1."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cass_core.ops.launch import launch

_BLOCK = 1024
# Enough to fill any device, and few enough that starting them in vain costs little.
_PROGRAMS = 1024


@triton.jit
def _scale_kernel(grad: tl.tensor, outer: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Programs that share the blocks; they touch nothing if the factor is 1."""
    factor = tl.load(outer).to(grad.dtype.element_ty)
    if factor != 1.0:
        start = tl.program_id(0).to(tl.int64) * BLOCK
        while start < count:
            offset = start + tl.arange(0, BLOCK)
            inside = offset < count
            values = tl.load(grad + offset, mask=inside)
            tl.store(grad + offset, values * factor, mask=inside)
            start += tl.num_programs(0) * BLOCK


def launch_scale(grad: Tensor, outer: Tensor) -> None:
    """Multiply ``grad``, contiguous, by the scalar ``outer`` on its device, in place."""
    programs = min(-(-grad.numel() // _BLOCK), _PROGRAMS)
    if programs:
        launch(_scale_kernel, programs, grad, outer, grad.numel(), _BLOCK, warps=4)
