"""Keeps the memory of messages with the process, where glibc would hand it back each time."""

from __future__ import annotations

import contextlib
import ctypes

# From malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 16 << 20
_FORDBLKS = 8


def keep_memory(arenas: int = 0) -> bool:
    """Makes glibc's malloc keep what this process frees, up to a GiB, for what comes next.

    By default a freed megabyte goes back to the kernel, and the next message faults it in again,
    page by page: for masks of a megabyte as much processor time as the rest of the call, 1.3 ms.
    `MaskCollate` calls this in the workers of a ``DataLoader``; elsewhere call it yourself, at the
    start of the program.

    It cannot be undone. The process stays at about the most memory that it ever used at once:
    masks of a megabyte cost 5 MB more with one caller, 45 MB with eight threads. Processes forked
    later inherit it, spawned ones do not.

    Args:
        arenas: how many arenas all threads share; 0 leaves that to glibc. Those beside the first
            hand back what is over 64 MiB whatever is set, so a server of large answers has one.
            Set before threads start.

    Returns:
        Whether it was set: True on Linux with glibc, False elsewhere. A preloaded allocator, such
        as jemalloc, ignores it.

    Example:
        >>> keep_memory() in (True, False)
        True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = [
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _PAD_BYTES),
        # A block that is mapped for itself is new each time; the largest threshold for that, 32
        # MiB, is less than a large answer has.
        (_MMAP_MAX, 0),
    ]
    if arenas:
        settings.append((_ARENA_MAX, arenas))
    return all(mallopt(name, value) == 1 for name, value in settings)


class _Info(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = [("numbers", ctypes.c_size_t * 10)]


class _SmallInfo(ctypes.Structure):
    """``struct mallinfo``, all that glibc has before 2.33."""

    _fields_ = [("numbers", ctypes.c_uint * 10)]


def free_bytes() -> int:
    """Bytes that glibc's malloc keeps for what comes next; 0 where it is not known.

    Before glibc 2.33 the number is right below 4 GiB, and too small beyond.

    Example:
        >>> free_bytes() >= 0
        True
    """
    for name, info in (("mallinfo2", _Info), ("mallinfo", _SmallInfo)):
        with contextlib.suppress(AttributeError, OSError, TypeError):
            mallinfo = getattr(ctypes.CDLL(None), name)
            mallinfo.restype = info
            return int(mallinfo().numbers[_FORDBLKS])
    return 0
