"""`make gpu-static`: what the kernels are in machine code, which needs no GPU.

Each is launched as the operators launch it and compiled for a GPU that is not there. Of the code
the table has registers, spills, the widest load and store, and how many instructions a lane runs
for a patch: where no box reaches its tile, where boxes do, and for each box. No time is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.common.measure import write
from benchmarks.common.no_gpu import Kernel, compiling
from benchmarks.core import roofline
from benchmarks.core.machine_code import disassembled, run
from cass_core import LossSpec, MaskSpec
from cass_core.ops.registration import CUDA
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs import LossKind

CAPABILITIES = (80, 90, 120)
_OF_PATCHES = ("mask", "weighted", "target", "boxes", "scale")
_SHAPE = (2, 92, 160)
_KINDS: tuple[LossKind, ...] = "bce", "focal", "quality_focal", "varifocal", "soft_focal"


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel in machine code.

    Attributes:
        name: of the case.
        capability: that it is compiled for, such as 90.
        registers: of a thread.
        spilled: bytes of registers that a thread keeps in memory.
        load: bits of the widest load from the device's memory.
        store: bits of the widest store.
        instructions: in all.
        box: in the loop over the boxes that reach a tile; 0 without one.
        patches: of a thread; 0 in a kernel that has sums or boxes instead.
        without_box: instructions that a lane runs where no box reaches its tile.
        without_box_double: of them, those of float64.
        one_box: instructions that it runs for one box.
        one_box_double: of them, those of float64.
    """

    name: str
    capability: int
    registers: int
    spilled: int
    load: int
    store: int
    instructions: int
    box: int
    patches: int
    without_box: int
    without_box_double: int
    one_box: int
    one_box_double: int

    def cells(self) -> tuple[str, ...]:
        """As a line of the table."""
        of_patches = self.without_box, self.one_box - self.box, self.box
        return (
            f"sm_{self.capability}",
            self.name,
            str(self.registers),
            str(self.spilled),
            str(self.load),
            str(self.store),
            str(self.instructions),
            *(f"{n / self.patches:.1f}" if n > 0 and self.patches else "–" for n in of_patches),
        )


_HEAD: tuple[str, ...] = (
    "GPU",
    "kernel",
    "registers",
    "spilled",
    "load",
    "store",
    "instructions",
    "without",
    "with boxes",
    "a box",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core.gpu_static")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    parser.add_argument("--beside", type=Path, help="JSON of another run, whose rows stand below")
    args = parser.parse_args(argv)
    rows = [row for capability in CAPABILITIES for row in table(capability)]
    before = {} if args.beside is None else _read(args.beside)
    _print(rows, before)
    if args.out is not None:
        ptxas = run("ptxas", "--version").strip().splitlines()[-1]
        kernels = [asdict(row) for row in rows]
        results = {"ptxas": ptxas, "kernels": kernels, "limits": _limits(kernels)}
        write(args.out, "make gpu-static", results)
    return 0


def table(capability: int) -> Iterator[Row]:
    """Every case for one GPU. A kernel stands under the first that needs it."""
    for name, launch in _cases():
        with compiling(capability) as kernels:
            launch()
        for kernel in kernels:
            yield _row(name, capability, kernel)


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Names, and launches that an operator makes."""
    f32, f16, bf16, f64, u8 = (
        torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8
    )  # fmt: skip
    for dtype in (f32, f16, u8):
        yield _name(dtype), _masks([92, 160], dtype)
    yield "float32, 161 columns", _masks([92, 161])
    yield "float32, 1 column", _masks([92, 1])
    yield "float32 and owners", _masks([92, 160], owner=True)
    yield "float32, 3 maps", _masks([92, 160, 46, 80, 23, 40])
    linear = MaskSpec(merge="clipped_sum", decay_type="linear")
    yield "float32, linear, clipped sum", _masks([92, 160], spec=linear)
    options = *mask_options(MaskSpec()), f32, False, None, None, None, None, True, 1.0
    yield (
        "float32, balanced",
        lambda: CUDA["weighted_masks"](*_boxes(), [92, 160], *options),
    )
    for logits, target, grad in (
        (f32, f32, f32), (f16, f32, f32), (f16, f16, f16), (bf16, f32, f32), (f32, u8, f32),
        (f64, f64, f64),
    ):  # fmt: skip
        given = torch.zeros(_SHAPE, dtype=logits), torch.zeros(_SHAPE, dtype=target)
        yield f"{_name(logits)} → {_name(grad)}, {_name(target)}", _loss(*given, grad)
    for kind in _KINDS:
        yield kind, _loss(torch.zeros(_SHAPE), torch.zeros(_SHAPE), f32, LossSpec(kind=kind))
    for logits, grad, columns in (
        (f32, f32, 160), (f32, f32, 161), (f16, f32, 160), (f16, f32, 161), (f16, f16, 160),
        (bf16, f32, 160), (f64, f64, 160), (f32, f32, 1),
    ):  # fmt: skip
        of = torch.zeros((2, 92, columns), dtype=logits)
        yield f"{_name(logits)} → {_name(grad)}, {columns} columns", _boxes_loss(of, grad)
    for kind in _KINDS[:2]:
        yield kind, _boxes_loss(torch.zeros(_SHAPE), f32, LossSpec(kind=kind))
    yield "float32", lambda: CUDA["scale_"](torch.zeros(2048), torch.ones(()))


def _boxes() -> tuple[Tensor, Tensor, None, list[int]]:
    return torch.zeros(4, 4), torch.tensor([0, 2, 4], dtype=torch.int32), None, [736, 1280]


def _masks(
    maps: list[int],
    dtype: torch.dtype = torch.float32,
    owner: bool = False,
    spec: MaskSpec = MaskSpec(),  # noqa: B008
) -> Callable[[], object]:
    return lambda: CUDA["masks"](*_boxes(), maps, *mask_options(spec), dtype, owner)


def _loss(
    logits: Tensor,
    target: Tensor,
    grad: torch.dtype,
    spec: LossSpec = LossSpec(),  # noqa: B008
) -> Callable[[], object]:
    return lambda: CUDA["loss"](logits, target, *loss_options(spec), 7.0, grad)


def _boxes_loss(
    logits: Tensor,
    grad: torch.dtype,
    spec: LossSpec = LossSpec(),  # noqa: B008
) -> Callable[[], object]:
    options = *mask_options(MaskSpec()), *loss_options(spec), 7.0, grad
    return lambda: CUDA["boxes_loss"](logits, *_boxes(), list(logits.shape[1:]), *options)


def _row(name: str, capability: int, kernel: Kernel) -> Row:
    short = kernel.name.strip("_").removesuffix("_kernel")
    sides = (kernel.constants.get(side, 1) for side in ("BLOCK", "BLOCK_Y", "BLOCK_X"))
    patches = math.prod(sides) if short in _OF_PATCHES else 0
    code = disassembled(kernel.cubin)
    without, one = code.without_box(), code.with_box()
    start, end = code.box_loop or (0, -1)
    return Row(
        f"{short}, {name}",
        capability,
        code.registers,
        code.spilled,
        code.widest("LDG"),
        code.widest("STG"),
        len(code.texts),
        end - start + 1,
        patches // (32 * kernel.warps),
        without.instructions,
        without.doubles,
        one.instructions,
        one.doubles,
    )


def _limits(kernels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Microseconds that each case takes at least on each card, by what takes them."""
    return {
        name: {
            card.name: {
                part: round(1e6 * seconds, 2)
                for part, seconds in roofline.limits(kernels, card, case).items()
            }
            for card in roofline.CARDS
        }
        for name, case in roofline.CASES.items()
    }


def _read(path: Path) -> dict[tuple[int, str], Row]:
    rows = [Row(**row) for row in json.loads(path.read_text())["kernels"]]
    return {(row.capability, row.name): row for row in rows}


def _print(rows: Sequence[Row], before: dict[tuple[int, str], Row]) -> None:
    print(f"Triton {triton.__version__}; the last columns: instructions of a lane for a patch")
    lines = [_HEAD]
    for row in rows:
        lines.append(row.cells())
        other = before.get((row.capability, row.name))
        if other is not None and other != row:
            lines.append(("", "  before", *other.cells()[2:]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())
