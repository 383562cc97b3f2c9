"""The GPU's kernels on CPU tensors: through Triton's interpreter, or a driver that does nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kernels() -> Iterator[None]:
    """Within it the operators of `cass_core.ops` launch the Triton kernels for CPU tensors too."""
    if importlib.util.find_spec("triton") is None:
        import pytest  # which `make gpu-check` does without

        pytest.skip("needs Triton, which has wheels for Linux")
    from cass_core.ops.registration import CUDA, LAUNCHED

    with torch.library._scoped_library("cass", "IMPL") as library:
        for name, function in CUDA.items():
            library.impl(name, function, "CPU")
        # Infinities and NaNs are part of the arithmetic; the interpreter's NumPy would warn.
        LAUNCHED.add("cpu")
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            LAUNCHED.discard("cpu")
