"""A server whose device fails at requests for so many images; `tests.gpu.server` starts it.

On a GPU the faults are real ones. On a CPU, where none of them can be caused, torch's errors are
raised and the computation sleeps; the supervisor treats the worker as a GPU's all the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

FULL, ASSERT, HANG = 5, 7, 9
"""Images of the requests that find no memory, break the device, and never end."""


def _fault(images: int, device: Any) -> None:
    import torch

    if device.type != "cuda":
        if images == FULL:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 PiB")
        if images == ASSERT:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        if images == HANG:
            time.sleep(1e6)
    elif images == FULL:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    elif images == ASSERT:
        beyond = torch.tensor([9], device=device)
        torch.zeros(2, device=device)[beyond]
    elif images == HANG:
        torch.cuda._sleep(1 << 50)


def _serve() -> None:
    from cass_server import cli
    from cass_server.process import main as process

    process.COMMAND = (sys.executable, __file__, "worker")
    found: Callable[[str], list[str]] = process.devices_of
    process.devices_of = lambda choice: ["none"] if choice == "cpu" else found(choice)
    cli.main()


def _work() -> None:
    from cass_server.engines import cuda
    from cass_server.engines.base import CpuEngine
    from cass_server.process import worker

    make_masks = cuda.make_masks

    def make(inputs: Any, device: Any) -> Any:
        _fault(inputs.boxes.num_images, device)
        return make_masks(inputs, device)

    def make_engine(device: str, seconds: float) -> Any:
        if device == "cpu":
            CpuEngine.warm_up()  # else the first computation would compile these kernels
            return cuda.CudaEngine(device, seconds)
        return cuda.CudaEngine(device, seconds, compilers=1)

    cuda.make_masks = make
    worker.make_engine = make_engine
    worker.main()


if __name__ == "__main__":
    _work() if sys.argv[1] == "worker" else _serve()
