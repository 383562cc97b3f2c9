"""How much memory this process has."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Resident memory of this process, which a container's limit counts; 0 if not on Linux."""
    with contextlib.suppress(OSError):
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
