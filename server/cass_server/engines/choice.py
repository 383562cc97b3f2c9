"""The choice of the device, and the engine for it."""

from __future__ import annotations

import importlib.util
import math

from cass_core.cpu.cores import core_count
from cass_core.errors import CassError
from cass_server.engines.base import CpuEngine, Engine

# Processes that compile kernels, each of which loads torch.
_MOST_COMPILERS = 4


def devices_of(choice: str) -> list[str]:
    """The devices for ``auto`` (CUDA where torch finds it, else the CPU), ``cpu`` or ``cuda[:N]``.

    Workers have them in turn: ``auto`` and ``cuda`` are all GPUs of the machine.

    Raises:
        CassError: there is no such device here.
    """
    if choice == "cpu":
        return [choice]
    if choice != "auto" and choice != "cuda" and not choice.startswith("cuda:"):
        raise CassError(f"device must be auto, cpu, cuda or cuda:N, got {choice}")
    found = _cuda_devices()
    if choice == "auto" and not found:
        return ["cpu"]
    number = choice.partition(":")[2]
    if found and choice in ("auto", "cuda"):
        return [f"cuda:{index}" for index in range(found)]
    if not number.isdigit() or int(number) >= found:
        raise CassError(f"device {choice}: torch finds {found} CUDA devices on this machine")
    return [choice]


def make_engine(choice: str, launch_seconds: float = math.inf) -> Engine:
    """The engine of the first of `devices_of` the same choice.

    Args:
        choice: of the device.
        launch_seconds: that a computation on a GPU may take, before the GPU counts as broken.

    Raises:
        CassError: there is no such device here.
    """
    device = devices_of(choice)[0]
    if device == "cpu":
        return CpuEngine()
    from cass_server.engines.cuda import CudaEngine  # which loads torch

    return CudaEngine(device, launch_seconds, min(core_count(), _MOST_COMPILERS))


def _cuda_devices() -> int:
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
