"""What every launch shares."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make the tensor's that one, if it is not already."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
