"""Compiles the kernels for NVIDIA GPUs, which needs none; run by `test_native`.

Triton's interpreter takes what its compiler refuses, such as a loop that changes a variable's
type. Run with a capability as its argument; prints a line for each kernel of each variant.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.common.no_gpu import compiling
from cass_core import LossSpec, MaskSpec
from cass_core.ops.registration import CUDA
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs.enums import KINDS

SPECS = (
    MaskSpec(temperature="small_gain"),
    MaskSpec(
        use_anisotropic_gaussian=False,
        temperature="size_scaled",
        use_subpixel_offset=False,
        merge="clipped_sum",
        level_ranges=((0, 64), (64, 256), (256, 512)),
    ),
    MaskSpec(decay_type="linear", merge="sum"),
    MaskSpec(use_anisotropic_gaussian=False, decay_type="linear"),
)
DTYPES = {"uint8": torch.uint8, "bfloat16": torch.bfloat16, "float32": torch.float32}
MAPS = ([20, 32], [20, 37, 5, 1, 1, 7])


def arguments() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Operators and what to call them with; between them the calls take every branch."""
    xyxy, offsets = torch.zeros(4, 4), torch.tensor([0, 2, 4], dtype=torch.int32)
    sizes = torch.ones(2, 2, dtype=torch.float64)
    for spec, (n, dtype) in itertools.product(SPECS, enumerate(DTYPES.values())):
        if spec.merge == "sum" and dtype == torch.uint8:
            continue
        owned = spec.merge == "max" and dtype == torch.float32
        maps = MAPS[1] if spec.level_ranges else MAPS[n % 2]
        boxes = xyxy, offsets, sizes if n == 1 else None, [40, 50]
        mask = *boxes, maps, *mask_options(spec), dtype, owned
        yield "masks", mask
        regions = (
            (sizes.float().repeat(1, 2) if n else None),
            *((xyxy, offsets) if n else (None,) * 2),
        )
        weight = (torch.ones(4), n == 1) if spec.merge == "max" else (None, False)
        yield "weighted_masks", (*mask, *regions, *weight, 0.5)
    for (logits, target), kind in itertools.product(
        (("float32", "float32"), ("float16", "uint8"), ("float64", "bfloat16")), KINDS
    ):
        n = KINDS[kind]
        spec_of_loss = LossSpec(
            kind=kind,  # type: ignore[arg-type]
            alpha=2.5 if n % 2 else 2,
            gamma=n % 3,
            reduction="none" if n % 2 else "mean",
            logit_clamp=4.0 if n % 4 == 3 else None,
        )
        grad = None if n == 1 else torch.float64 if logits == "float64" else torch.float32
        loss = *loss_options(spec_of_loss), 7.0, grad
        of = torch.zeros(2, 20, 32, dtype=getattr(torch, logits))
        other = torch.zeros(2, 20, 32, dtype=getattr(torch, target))
        yield "loss", (of, other, *loss)
        yield "weighted_loss", (of, other, torch.ones(2, 20, 32), *loss)
        if n > 2:
            continue
        for columns in (32, 37, 1):
            of = torch.zeros(2, 20, columns, dtype=of.dtype)
            boxes = xyxy, offsets, sizes if columns == 1 else None, [40, 50]
            yield "boxes_loss", (of, *boxes, [20, columns], *mask_options(SPECS[0]), *loss)
        yield "scale_", (of, torch.ones((), dtype=of.dtype))


def main(capability: int, most: int | None = None) -> None:
    """Print what was compiled, for the first so many launches or for all."""
    for name, given in itertools.islice(arguments(), most):
        with compiling(capability) as kernels:
            CUDA[name](*given)
        for kernel in kernels:
            print(f"{kernel.name} sm_{capability}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
