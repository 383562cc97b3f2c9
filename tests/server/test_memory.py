"""What the process is told to keep, and that it keeps nothing of requests that are over."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from cass_server.memory import keep_freed_memory
from tests.server.calls import LIMIT


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone"
)
def test_glibc_takes_the_settings() -> None:
    """In a process of its own: they stay."""
    program = "from cass_server.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert done.stdout == "True\n"


def test_other_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without mallopt, such as musl, cannot be had here."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False
