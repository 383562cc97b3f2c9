"""Keeps the memory of messages with the process, where glibc would hand it back each time."""

from __future__ import annotations

import ctypes

# From malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 16 << 20


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep up to a GiB of what is freed; whether it could be told to.

    A freed megabyte goes back to the kernel by default, and the next message faults it in again,
    page by page: more time than everything else that a request of a megabyte takes, and for one of
    64 MiB a tenth of a second in which the event loop does nothing else. Set before threads start.
    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _PAD_BYTES),
        # A block that is mapped for itself is new each time; the largest threshold for that, 32
        # MiB, is less than a large answer has.
        (_MMAP_MAX, 0),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
