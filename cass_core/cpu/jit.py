"""How every CPU kernel is compiled: no GIL, IEEE arithmetic, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile on first use for the types it is called with; release the GIL while it runs.

    The machine code is cached beside the source, or in the user's cache folder where that is
    read-only. Where neither can be written (a container with a read-only root file system and
    no ``NUMBA_CACHE_DIR``) it is compiled anew in each process.
    """
    try:
        return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy"))
    except RuntimeError:  # numba: "no locator available"
        return inline(function)


def brief(function: F) -> F:
    """As `kernel`, but the GIL stays: for a few µs, to hand it over costs more than to keep it."""
    try:
        return cast(F, numba.njit(function, cache=True, error_model="numpy"))
    except RuntimeError:
        return inline(function)


def inline(function: F) -> F:
    """A piece of a kernel, small enough that LLVM inlines it; it is cached with the kernel."""
    return cast(F, numba.njit(function, nogil=True, error_model="numpy"))
