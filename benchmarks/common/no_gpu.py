"""Kernels compiled for a GPU on a machine without one: launches that go nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel as a launch had it compiled.

    Attributes:
        name: of its function.
        cubin: the machine code, an ELF file.
        warps: of a program.
        constants: that are compiled in, such as how large a block is.
    """

    name: str
    cubin: bytes
    warps: int
    constants: Mapping[str, Any]


@contextmanager
def compiling(capability: int) -> Iterator[list[Kernel]]:
    """Within it a launch of CPU tensors compiles what it would on a GPU, and does nothing else.

    Yields the kernels, each when a launch first needs it. Triton must not interpret.

    Args:
        capability: of the GPU, such as 90.
    """
    from triton.runtime.driver import driver

    from cass_core.ops.launch import COMPILED

    kernels: list[Kernel] = []
    COMPILED.clear()  # by the device of the tensors, which is the CPU for every capability
    driver.set_active(_Driver(capability, kernels))
    try:
        yield kernels
    finally:
        driver._active = None  # without a GPU there is no default
        COMPILED.clear()


class _Driver:
    """What Triton asks of a driver. A GPU's number is its capability: each has its own kernels."""

    def __init__(self, capability: int, kernels: list[Kernel]) -> None:
        self._capability = capability
        self._kernels = kernels
        self._launched: tuple[int, dict[str, Any]] = 0, {}
        self.utils = self
        self.get_current_device = lambda: capability
        self.get_current_stream = lambda device: 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 99 * 1024}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        names = source.fn.arg_names
        constants = {names[at[0]]: v for at, v in source.constants.items() if len(at) == 1}
        self._launched = metadata.num_warps, constants
        return lambda *args: None

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[int, ...]:
        self._kernels.append(Kernel(name, cubin, *self._launched))
        return 0, 0, 0, 0, 1024

    def unload_module(self, module: int) -> None: ...
