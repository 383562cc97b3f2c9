"""What the checks of `make gpu-check` share: where they run, and how they compare."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cass_core import BoxBatch, LossResult, LossSpec, MaskSpec, compute_loss
from cass_core.inputs import MaskInputs
from cass_core.masks import generate_mask
from cass_core.ops.backend import make_masks, take_loss

Boxes = Sequence[Any]
Maps = Sequence[tuple[int, int]]
T = TypeVar("T")

SIZE = (736, 1280)
CELLS = (23, 40)
ALIGNED = (23, 48)
"""Columns that are a multiple of 16, for which kernels are compiled apart."""
FINE = MaskSpec(patch_size=1)
HALVES: Mapping[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Skipped(Exception):
    """A check that cannot be made here; its message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where the checks run.

    Attributes:
        device: that all tensors are on.
        native: whether the kernels are compiled for it, rather than interpreted.
        shared: folder with the conformance answers.
    """

    device: torch.device
    native: bool
    shared: Path

    def some(self, cases: Sequence[T], count: int) -> list[T]:
        """All cases; or, since the interpreter takes its time, so many of them."""
        return list(cases) if self.native else random.Random(0).sample(list(cases), count)

    def tensor(self, values: npt.ArrayLike) -> Tensor:
        """A tensor on the device."""
        return torch.as_tensor(np.asarray(values)).to(self.device)

    def boxes(self, boxes: Boxes) -> BoxBatch:
        """Boxes on the device."""
        arrays = [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes]
        return BoxBatch.from_list([self.tensor(a) for a in arrays])

    def logits(self, *shape: int, seed: int = 0) -> Tensor:
        """Float32 logits of a normal distribution, twice as wide as usual."""
        generator = torch.Generator().manual_seed(seed)
        return (2 * torch.randn(shape, generator=generator)).to(self.device).requires_grad_()

    def masks(
        self, boxes: Boxes, sizes: Any, maps: Maps, spec: MaskSpec, dtype: str = "float32"
    ) -> list[Tensor]:
        """`generate_mask` for a list of feature maps."""
        return self._masks(boxes, sizes, maps, spec, dtype, False)[0]

    def owned(
        self, boxes: Boxes, sizes: Any, cells: tuple[int, int], spec: MaskSpec
    ) -> tuple[Tensor, Tensor]:
        """Mask and owners of one feature map."""
        masks, owners = self._masks(boxes, sizes, [cells], spec, "float32", True)
        return masks[0], owners[0]

    def _masks(
        self, boxes: Boxes, sizes: Any, maps: Maps, spec: MaskSpec, dtype: str, owner: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        batch, maps = self.boxes(boxes), list(maps)
        if not self.native:  # generate_mask would send CPU tensors through the compiled loops
            inputs = MaskInputs.check(batch, sizes, maps, spec, dtype, owner)
            masks, owners, _ = make_masks(inputs, self.device)
            return masks, owners
        found = generate_mask(batch, sizes, maps, spec, dtype=dtype, return_owner=owner)
        return found if owner else (found, [])

    def loss(
        self, logits: Tensor, target: Tensor, spec: LossSpec, num_boxes: float | None = None
    ) -> LossResult:
        """`compute_loss` with the gradient."""
        if not self.native:
            return take_loss(logits, target, spec, num_boxes, True)
        return compute_loss(logits, target, spec, num_boxes=num_boxes, return_grad=True)


def capture(step: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """A CUDA graph of a step that was warmed up before, and what the step returned."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result


def close(found: Any, expected: Any, rtol: float, atol: float, what: str) -> None:
    """Refuse values further than ``atol + rtol abs(expected)`` from what they are to be."""
    found, expected = (host(value) for value in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


def same(found: Any, expected: Any, what: str) -> None:
    """Refuse anything but the same bits."""
    found, expected = (np.ascontiguousarray(host(value)) for value in (found, expected))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    bits = np.dtype(f"u{found.dtype.itemsize}")
    np.testing.assert_array_equal(found.view(bits), expected.view(bits), err_msg=what)


def host(value: Any) -> npt.NDArray[Any]:
    """A copy in the host's memory, bfloat16 as float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # exactly
    return np.asarray(value)
