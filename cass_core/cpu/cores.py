"""The processor cores that this process may use."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def core_count() -> int:
    """Cores by affinity, but no more than the limits of its control groups, as in containers."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS or Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, core_limit())


@functools.cache
def core_limit(root: Path = Path("/")) -> int:
    """The cores that control groups, version 1 or 2, give this process: 1.5 are 2.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    return min((max(1, math.ceil(limit)) for limit in _limits(root)), default=1 << 30)


def _limits(root: Path) -> Iterator[float]:
    """The limits of each control group that this process is in, and of those around it."""
    try:
        groups = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in groups:
        _, controllers, path = line.split(":", 2)
        names = [part for part in path.split("/") if part]
        if not controllers:
            folders = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        # In a container the path may be the host's, and its own group is mounted at the top.
        for folder in folders:
            for depth in range(len(names) + 1):
                yield from _limit(folder.joinpath(*names[:depth]))


def _limit(group: Path) -> Iterator[float]:
    """The limit of one control group, if it has one."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        # Unlimited are "max" and -1.
        with suppress(OSError, ValueError):
            quota, period = " ".join((group / file).read_text() for file in files).split()
            if float(quota) > 0:
                yield float(quota) / float(period)
