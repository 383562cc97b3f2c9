"""What an error of torch or Triton says about the device."""

from __future__ import annotations

import torch

_CUDA_ERRORS = ("CUDA error:", "CUDA driver error:", "Triton Error [CUDA]:")
# The call alone has failed, and what follows works: by CUDA's documentation, all others leave
# the process unable to use the device.
_PASSING_ERRORS = (
    "out of memory",
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested for launch",
)


def is_breaking(error: RuntimeError) -> bool:
    """Whether the device cannot be used after this error until the process is started anew.

    Example:
        >>> is_breaking(RuntimeError("CUDA error: an illegal memory access was encountered"))
        True
        >>> is_breaking(RuntimeError("CUDA error: out of memory"))
        False
    """
    line = first_line(error)
    if isinstance(error, torch.OutOfMemoryError) or any(text in line for text in _PASSING_ERRORS):
        return False
    return isinstance(error, torch.AcceleratorError) or any(text in line for text in _CUDA_ERRORS)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the host's pinned memory, had no room.

    Example:
        >>> is_out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))
        True
    """
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in first_line(error)


def first_line(error: BaseException) -> str:
    """What torch says first; more lines are advice for debugging."""
    return str(error).partition("\n")[0]
