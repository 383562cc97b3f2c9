"""Equality in kind, dtype, shape and bits."""

from __future__ import annotations

from typing import Any

import torch


def same(first: Any, second: Any) -> None:
    """Assert it of arrays, scalars and tensors, in lists and tuples too."""
    assert type(first) is type(second)
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            same(a, b)
        return
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    if isinstance(first, torch.Tensor):
        a, b = (t.reshape(-1).view(torch.uint8) for t in (first, second))
        assert a.equal(b)
    else:
        assert first.tobytes() == second.tobytes()
