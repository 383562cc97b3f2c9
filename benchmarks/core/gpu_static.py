"""`make gpu-static`: what the kernels are in machine code, which needs no GPU.

Each is launched as the operators launch it and compiled for a GPU that is not there. Of the code
the table has registers, spills, the widest load and store, and how many instructions a lane has for
a patch. It says nothing of times.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends import nvidia

from benchmarks.common.measure import write
from benchmarks.common.no_gpu import Kernel, compiling
from cass_core import LossSpec, MaskSpec
from cass_core.ops.registration import CUDA
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs import LossKind

CAPABILITIES = (80, 90, 120)
_BIN = Path(nvidia.__file__).with_name("bin")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)
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
        instructions: in all, and in the loop over the boxes that reach a tile, 0 without one.
        box: instructions of that loop.
        patches: of a thread; 0 in a kernel that has sums or boxes instead.
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

    def cells(self) -> tuple[str, ...]:
        """As a line of the table."""
        outside = (self.instructions - self.box) / max(1, self.patches)
        return (
            f"sm_{self.capability}",
            self.name,
            str(self.registers),
            str(self.spilled),
            str(self.load),
            str(self.store),
            str(self.instructions),
            f"{outside:.1f}" if self.patches else "–",
            f"{self.box / self.patches:.1f}" if self.box and self.patches else "–",
        )


_HEAD: tuple[str, ...] = (
    "GPU",
    "kernel",
    "registers",
    "spilled",
    "load",
    "store",
    "instructions",
    "patch",
    "box",
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
        ptxas = _run("ptxas", "--version").strip().splitlines()[-1]
        results = {"ptxas": ptxas, "kernels": [asdict(row) for row in rows]}
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
        (bf16, f32, 160), (f64, f64, 160),
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
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.cubin)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _INSTRUCTION.findall(_run("cuobjdump", "-sass", file.name))
    found = {k: int(n) for k, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    code = [(int(at, 16), text) for at, text in code if not text.startswith("NOP")]
    return Row(
        f"{short}, {name}",
        capability,
        found["REG"],
        found["STACK"] + found["LOCAL"],
        _widest(code, "LDG"),
        _widest(code, "STG"),
        len(code),
        _box_loop(code),
        patches // (32 * kernel.warps),
    )


def _widest(code: list[tuple[int, str]], operation: str) -> int:
    """Bits of the widest one; without a width it is 32."""
    widths = [0]
    for _, text in code:
        if match := re.search(rf"\b{operation}\.(\S+)", text):
            sizes = [part.lstrip("US") for part in match[1].split(".")]
            widths.append(next((int(size) for size in sizes if size.isdigit()), 32))
    return max(widths)


def _box_loop(code: list[tuple[int, str]]) -> int:
    """Instructions of the longest loop that has no loop in it."""
    loops = []
    for at, text in code:
        match = re.search(r"\bBRA\S*\s.*?0x([0-9a-f]+)", text)
        if match and int(match[1], 16) < at:
            loops.append((int(match[1], 16), at))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return max((sum(low <= at <= high for at, _ in code) for low, high in inner), default=0)


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [_BIN / program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def _read(path: Path) -> dict[tuple[int, str], Row]:
    rows = [Row(**row) for row in json.loads(path.read_text())["kernels"]]
    return {(row.capability, row.name): row for row in rows}


def _print(rows: Sequence[Row], before: dict[tuple[int, str], Row]) -> None:
    print(f"Triton {triton.__version__}; a patch and a box of it: instructions of a lane")
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
