"""A real limit of memory for a server's processes, where this machine lets one be set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_ROOT = Path("/sys/fs/cgroup")
# Enters a group, whose file is the first argument, and serves.
_PROGRAM = """
import sys
with open(sys.argv.pop(1), "w") as file:
    file.write("0")
from cass_server import cli
cli.main()
"""


class Limited:
    """A group of processes that the kernel ends when they need more.

    Attributes:
        program: for `tests.support.servers.serving`, inside the group.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        names = ("memory.max", "memory.limit_in_bytes")
        name = next((name for name in names if (folder / name).exists()), None)
        if name is None:
            pytest.skip("the kernel's groups have no memory here")
        (folder / name).write_text(str(most), encoding="ascii")
        with contextlib.suppress(OSError):  # what swaps is not ended
            (folder / "memory.swap.max").write_text("0", encoding="ascii")
        self.program = ("-c", _PROGRAM, str(folder / "cgroup.procs"), "serve")

    def peak(self) -> int:
        """The most bytes until now, with the files that the kernel keeps in memory for them."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with contextlib.suppress(OSError):
                return int((self._folder / name).read_text(encoding="ascii"))
        return 0


@contextlib.contextmanager
def limited(most: int) -> Iterator[Limited]:
    """A group for servers that may have so many bytes; skips where none can be made."""
    version1 = _ROOT / "memory"
    folder = (version1 if version1.is_dir() else _ROOT) / f"cass-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes can be made: {error}")
    try:
        yield Limited(folder, most)
    finally:
        procs = folder / "cgroup.procs"
        wait_until(lambda: not procs.read_text(), procs.read_text, 60)
        folder.rmdir()
