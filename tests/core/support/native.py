"""Compiles the kernels for NVIDIA GPUs, which needs none; run by `test_native_kernels`.

Triton's interpreter takes what its compiler refuses, such as a loop that changes a variable's
type. Run with a capability as its argument; prints a line for each variant.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cass_core.enums import KINDS, MERGES, TEMPERATURES
from cass_core.ops import loss_kernels, masks, scale, weight_kernels
from cass_core.ops.spec_args import Loss, Shape, Weigh

# What a launch passes: pointers, whole numbers, tuples of floats.
POINTERS = {"xyxy": "*fp32", "offsets": "*i32", "sizes": "*fp64", "owners": "*i32"}
POINTERS |= {"valid_region": "*fp32", "ignored": "*fp32", "ignored_offsets": "*i32"}
POINTERS |= {"weights": "*fp32", "counts": "*i32", "shares": "*fp32", "divisor": "*fp64"}
WHOLE = ("batch", "height", "width", "patch", "h", "w", "columns", "count")
TUPLES = {"numbers": ("fp32",) * 10, "heads": ("fp32",) * 6, "rests": ("fp32",) * 6}
TUPLES |= {"bounds": ("fp32",) * 4}
SHAPE = Shape(True, True, TEMPERATURES["small_gain"], True, MERGES["max"], False, ranges=False)
LOSS = Loss(KINDS["focal"], (2, 4, 2), per_patch=False, grad=True, clamp=False, weighted=False)


def build(kernel: Any, capability: int, types: dict[str, Any], **constants: Any) -> str:
    """Compile a kernel for a capability such as 90; its name and that."""
    signature: dict[str, Any] = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        else:
            signature[name] = (POINTERS | TUPLES | types).get(name, "i32")
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): v for name, v in constants.items()},
    )
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert built.asm["cubin"]
    return f"{built.metadata.name} sm_{capability}"


def main(capability: int) -> None:
    """Variants that between them take every branch."""
    for shape in (
        SHAPE,
        Shape(False, True, TEMPERATURES["size_scaled"], False, MERGES["clipped_sum"], False, True),
        Shape(True, False, TEMPERATURES["fixed"], True, MERGES["sum"], False, False),
        SHAPE._replace(anisotropic=False, gaussian=False),
    ):
        for dtype, maps in (("fp32", 1), ("u8", 2), ("bf16", 1)):
            types = {"mask": f"*{dtype}"}
            types |= {"cells": (("fp32",) * 4,) * maps, "columns": ("i32",) * maps}
            types |= {"ranges": (("fp32",) * 4,) * maps, "background": "fp32"}
            launched = shape._replace(sizes=maps == 1)
            print(
                build(
                    masks._mask_kernel, capability, types,
                    SHAPE=launched, OWNER=shape.merge == 0, BLOCK_Y=32, BLOCK_X=32,
                )
            )  # fmt: skip
            weigh = Weigh(shape.merge == 0, shape.merge == 0, maps == 1, dtype != "u8")
            print(
                build(
                    weight_kernels.weighted_kernel, capability, types,
                    SHAPE=launched, WEIGH=weigh, BLOCK_Y=16, BLOCK_X=32,
                )
            )  # fmt: skip
    print(build(weight_kernels.share_kernel, capability, {}, BLOCK=1024))
    for logits, target, grad in (
        ("fp32", "fp32", "fp32"), ("fp16", "u8", "fp32"), ("fp64", "bf16", "fp64")
    ):  # fmt: skip
        types = {"logits": f"*{logits}", "target": f"*{target}", "grad": f"*{grad}"}
        types |= {"losses": f"*{grad}", "sums": "*fp64"}
        for kind in KINDS.values():
            flags = bool(kind % 2), True, kind % 3 == 0, kind % 4 < 2
            loss = Loss(kind, (2, -1, kind % 3 - 1), *flags)
            print(build(loss_kernels.target_kernel, capability, types, LOSS=loss, BLOCK=1024))
        print(
            build(
                loss_kernels.boxes_kernel, capability, types,
                SHAPE=SHAPE, LOSS=LOSS, BLOCK_Y=16, BLOCK_X=32,
            )
        )  # fmt: skip
        finish = {"sums": "*fp64", "loss": f"*{grad}", "whole": f"*{grad}"}
        constants = {"PER_PATCH": 0, "WEIGHTED": int(grad == "fp64"), "BLOCK": 1024}
        print(build(loss_kernels.finish_kernel, capability, finish, **constants))
        # A launch compiles in a width or a count of 1.
        single = {name: kind for name, kind in types.items() if name != "target"}
        print(
            build(
                loss_kernels.boxes_kernel, capability, single,
                SHAPE=SHAPE._replace(sizes=True), LOSS=LOSS, BLOCK_Y=16, BLOCK_X=32, columns=1,
            )
        )  # fmt: skip
        print(build(loss_kernels.target_kernel, capability, types, LOSS=LOSS, BLOCK=1024, count=1))
        factor = {"grad": f"*{grad}", "outer": f"*{grad}"}
        print(build(scale._scale_kernel, capability, factor, BLOCK=1024))


if __name__ == "__main__":
    main(int(sys.argv[1]))
