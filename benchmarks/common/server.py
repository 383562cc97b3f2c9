"""A `cass-server` process for a benchmark, and what the kernel reports of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.processes import on_core, thread_seconds, tree
from tests.support.servers import ServerProcess, serving


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds now: memory, open descriptors, threads of all kinds."""

    resident_bytes: int
    files: int
    threads: int


@contextlib.contextmanager
def server_on(core: int | None, *arguments: str) -> Iterator[ServerProcess]:
    """A CPU server with these options, on one core if given; ended at the end."""
    with contextlib.ExitStack() as stack:
        with on_core(core):
            server = stack.enter_context(serving(*arguments))
        yield server


def server_seconds(server: ServerProcess) -> float:
    """CPU time of the server's living threads until now."""
    return sum(thread_seconds(tree(server.process.pid)).values())


def usage(server: ServerProcess) -> dict[int, Usage]:
    """Usage of the server's process and of its workers, by process id."""
    return {pid: _usage(pid) for pid in tree(server.process.pid)}


def _usage(pid: int) -> Usage:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(int(status["VmRSS"].split()[0]) << 10, files, int(status["Threads"]))
