"""Fills Triton's cache on the disk with what a server warms, for GPUs that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from cass_core.errors import CassError
from cass_core.ops.launch import COMPILED
from cass_core.ops.registration import CUDA
from cass_server.engines.cuda import CudaEngine
from cass_server.engines.warm_up import first_calls, further_calls, warm_up
from cass_server.observability.metrics import Metrics

_WARP = 32
# Nothing is launched, so that any will do.
_SHARED_BYTES = 1 << 30
_THREADS = 1 << 10


class NoDevice:
    """A driver for Triton that has a GPU's architecture, and launches nothing.

    Args:
        capability: of the GPU, such as 90.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (object(), 0, 0, 0, _THREADS),
            unload_module=lambda _: None,
            get_device_properties=lambda _: {"max_shared_mem": _SHARED_BYTES},
        )

    def get_current_target(self) -> GPUTarget:
        """What is compiled for."""
        return GPUTarget("cuda", self._capability, _WARP)

    def get_current_device(self) -> int:
        """A number for each architecture, since Triton keeps kernels by it."""
        return self._capability

    def get_current_stream(self, _: int) -> int:
        """The default one."""
        return 0

    def launcher_cls(self, *_: Any) -> Any:
        """What would launch a kernel."""
        return lambda *_: None


@contextmanager
def launching_nothing(capability: int) -> Iterator[None]:
    """Within it the operators of `cass_core.ops` prepare the launches for CPU tensors on a GPU."""
    triton.runtime.driver.set_active(NoDevice(capability))
    COMPILED.clear()  # by the tensors' device, which is the CPU for every capability
    with torch.library._scoped_library("cass", "IMPL") as library:
        for name, function in CUDA.items():
            library.impl(name, function, "CPU")
        try:
            yield
        finally:
            COMPILED.clear()


def fill(capability: int, processes: int) -> tuple[int, int]:
    """Compile what a server warms, unless it is in the cache.

    Args:
        capability: of the GPUs, such as 90.
        processes: that compile at a time.

    Returns:
        How many variants of kernels were in the cache, and how many were compiled.

    Raises:
        CassError: there is a kernel that cannot be compiled.
    """
    engine, metrics = CudaEngine("cpu", compilers=processes), Metrics()
    engine.watch(metrics, lambda: None)
    try:
        with launching_nothing(capability):
            warm_up(engine, chain(first_calls(), further_calls()), processes)
    except Exception as error:
        raise CassError(f"sm_{capability}: {type(error).__name__}: {error}") from error
    finally:
        engine.close()
    cached, compiled = metrics.kernel_variants()
    return cached, compiled
