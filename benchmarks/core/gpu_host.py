"""`make gpu-host`: what a call on a GPU takes its host, measured without a GPU.

The launches are prepared as for a GPU and given to a driver that does nothing, so what is left is
Python, torch and Triton. On a GPU the driver comes on top, once for each launch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.common.measure import interleaved, write
from benchmarks.common.no_gpu import compiling
from cass_core import BoxBatch, CassLoss, LossSpec, MaskSpec
from cass_core.inputs import MaskInputs
from cass_core.ops.backend import make_masks
from cass_core.ops.launch import launch
from cass_core.synthetic import street_boxes
from tests.support.interpreted import kernels

REPEATS = 20
# That are asked for, on a GPU.
LOSS_MICROSECONDS, MASKS_MICROSECONDS = 100, 60
BOUNDS = {"CassLoss, forward and backward": LOSS_MICROSECONDS, "masks": MASKS_MICROSECONDS}
_IMAGES, _CELLS, _SIZE = 16, (23, 40), (736, 1280)


@triton.jit  # type: ignore[untyped-decorator]
def _nothing(tensor: tl.tensor, BLOCK: tl.constexpr) -> None:  # noqa: N803
    pass


class _NoLoss(torch.autograd.Function):
    """What torch takes for any loss that makes its gradient itself."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return logits.new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad, None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core.gpu_host")
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    parser.add_argument("--rounds", type=int, default=201, help="turns of each (default: 201)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with kernels(), compiling(90):
        seconds = interleaved({name: (f, REPEATS) for name, f in _calls().items()}, args.rounds)
    found = {name: round(1e6 * value, 1) for name, value in seconds.items()}
    for name, microseconds in found.items():
        bound = f", bound {BOUNDS[name]}" if name in BOUNDS else ""
        print(f"{name:40}{microseconds:8.1f} µs{bound}")
    if args.out is not None:
        write(args.out, "make gpu-host", {"microseconds": found, "bounds": BOUNDS})
    return 0


def _calls() -> dict[str, Callable[[], object]]:
    arrays = street_boxes(_IMAGES, 15, image_size=_SIZE)
    on_host = BoxBatch.from_list([torch.from_numpy(array) for array in arrays])
    # As a batch in a GPU's memory has them.
    offsets = torch.from_numpy(on_host.offsets.astype(np.int32))
    batch = BoxBatch.checked(on_host.xyxy, on_host.offsets, offsets)
    logits = torch.randn(_IMAGES, *_CELLS, requires_grad=True)
    grad, spec, loss = torch.zeros(_IMAGES, *_CELLS), MaskSpec(), CassLoss(MaskSpec(), LossSpec())

    def step() -> None:
        logits.grad = None
        loss(logits, batch, _SIZE, _CELLS).backward()

    def bare() -> None:
        logits.grad = None
        value: Tensor = _NoLoss.apply(logits, grad)  # type: ignore[no-untyped-call]
        value.backward()  # type: ignore[no-untyped-call]

    def masks() -> object:  # as `generate_mask` does with boxes in a GPU's memory
        inputs = MaskInputs.check(batch, _SIZE, [_CELLS], spec, "float32", False)
        return make_masks(inputs, logits.device)

    return {
        "CassLoss, forward and backward": step,
        "  of it torch, by a loss of no kernels": bare,
        "masks": masks,
        "a launch of nothing, by Triton": lambda: _nothing[(1,)](grad, 1),
        "a launch of nothing, by cass_core": lambda: launch(_nothing, 1, grad, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
