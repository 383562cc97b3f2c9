"""What the kernel says of processes, and where they may run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

HOST = "127.0.0.1"
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(16 << 20),
}
"""The environment in which glibc keeps what a process has freed for its next allocation."""
_TICKS = os.sysconf("SC_CLK_TCK")


def two_cores() -> tuple[int, int]:
    """A core for servers and another for their callers."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("two cores are needed: callers beside the server would slow it down")
    return available[0], available[1]


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on a core if one is given."""
    available = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, available)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def stat_fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the third on.

    Raises:
        OSError: there is no such process any more.
    """
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """The ids of a process and of its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat_fields(int(folder.name))[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """CPU time until now of a process and its descendants."""
    ticks = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):  # ended in the meantime
            fields = stat_fields(pid)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def thread_seconds(pids: Iterable[int]) -> dict[str, float]:
    """CPU time until now of each thread, to the nanosecond where `cpu_seconds` counts ticks."""
    return {
        task.name: int((task / "schedstat").read_text(encoding="utf-8").split()[0]) / 1e9
        for pid in pids
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
