"""A kernel that is compiled is launched again only where Triton would not compile it apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cass_core.ops import launch as launching

BYTES = torch.zeros(64, dtype=torch.uint8)
ALIGNED = BYTES[-BYTES.data_ptr() % 16 :][:32]


class Kernel:
    """In place of one of `triton.jit`: notes the programs of what it compiles and launches."""

    constexprs = (2,)

    def __init__(self) -> None:
        self.compiled: list[int] = []
        self.launched: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Kernel]:
        # Triton's compiled kernels want all three sides of the grid.
        (self.launched if len(grid) == 3 else self.compiled).append(grid[0])
        return lambda *arguments, **options: self


def launched(first: Any, second: Any, constants: tuple[Any, Any] = (8, 8)) -> Kernel:
    kernel = Kernel()
    launching.launch(kernel, 5, BYTES, first, constants[0])
    launching.launch(kernel, 7, BYTES, second, constants[1])
    return kernel


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "COMPILED", {})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (16, 17),
        (17, 16),
        (1, 17),
        (2**31 - 1, 2**31 + 1),
        (2**63 - 1, 2**63 + 1),
        ((16, 32), (16, 37)),
        ((37,), (37, 37)),
        (((1.0, 2.0),), ((1.0, 2.0), (1.0, 2.0))),
        (ALIGNED, ALIGNED[1:]),
        (ALIGNED[:16], ALIGNED[:16].view(torch.int8)),
    ],
)
def test_compiled_apart(first: Any, second: Any) -> None:
    kernel = launched(first, second)
    assert (kernel.compiled, kernel.launched) == ([5, 7], [])


def test_constants_are_compiled_in() -> None:
    assert launched(17, 17, (8, 16)).compiled == [5, 7]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (17, 18),
        (16, 32),
        (0.5, 1.0),
        ((16, 37), (32, 41)),
        ((1.0, 92.0), (0.0, 16.0)),
        (ALIGNED, ALIGNED[16:]),
    ],
)
def test_compiled_once(first: Any, second: Any) -> None:
    kernel = launched(first, second)
    assert (kernel.compiled, kernel.launched) == ([5], [7])
