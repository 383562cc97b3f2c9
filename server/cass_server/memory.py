"""Keeps the memory of messages with the process, where glibc would hand it back each time."""

from __future__ import annotations

import ctypes

# From malloc.h; the largest threshold that it takes for mapping is 32 MiB on 64 bits.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 16 << 20
_MAPPED_BYTES = 32 << 20


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep up to a GiB of what is freed; whether it could be told to.

    A freed megabyte goes back to the kernel by default, and the next message faults it in again,
    page by page: more time than everything else that a request of a megabyte takes. Set before
    threads start. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _PAD_BYTES),
        (_MMAP_THRESHOLD, _MAPPED_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
