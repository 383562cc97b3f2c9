"""Compiles variants of kernels in processes of their own, into Triton's cache on the disk.

Compiling holds Python's lock for tens of milliseconds at a time, and a core for seconds. The
processes are started when first needed, see no GPU, have a low priority, and end with this one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from cass_core.errors import CassError
from cass_server.engines.variants import Variant

_COMMAND = (sys.executable, "-m", "cass_server.engines.compiler")
# What threads that answer calls give way to least.
_NICE = 10
# For one variant, before its process is ended: callers wait for it.
_MOST_SECONDS = 300.0
_END_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Compiler:
    """As many processes that compile as there are calls of `compile` at a time, up to a number.

    Args:
        processes: at most. One is kept, the others end when they have nothing to do.
        on_compiled: called with the seconds that each variant took.
        command: what starts a process.
    """

    def __init__(
        self,
        processes: int,
        on_compiled: Callable[[float], None],
        command: tuple[str, ...] = _COMMAND,
    ) -> None:
        self._command = command
        self._on_compiled = on_compiled
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def compile(self, variant: Variant) -> None:
        """Put a variant into Triton's cache; what fails is logged."""
        process = self._free.get()
        begun = time.monotonic()
        try:
            if process is None:
                process = _Process(self._command)
            process.compile(variant)
        except (OSError, EOFError, pickle.PickleError, CassError) as error:
            extra = {"kernel": variant.name, "reason": f"{type(error).__name__}: {error}"}
            _log.warning("a kernel cannot be compiled aside", extra=extra)
            if process is not None and not isinstance(error, CassError):
                process.close()
                process = None
        else:
            seconds = time.monotonic() - begun
            self._on_compiled(seconds)
            done = {"kernel": variant.name, "seconds": round(seconds, 3)}
            _log.info("kernel compiled", extra=done)
        finally:
            self._free.put(process)

    def close(self, keep: int = 0) -> None:
        """End the processes that have nothing to do, but for some."""
        idle: list[_Process | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for process in idle:
            if process is not None and keep:
                keep -= 1
                self._free.put(process)
            else:
                if process is not None:
                    process.close()
                self._free.put(None)


class _Process:
    """One of the processes; raises `OSError` if it cannot be started."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A context on the GPU would take hundreds of megabytes there.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )

    def compile(self, variant: Variant) -> None:
        """Raises `CassError` if it cannot be compiled, `OSError` and others if the process ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(_MOST_SECONDS, self._process.kill)
        timer.start()
        try:
            pickle.dump(variant, self._process.stdin)
            self._process.stdin.flush()
            error: str = pickle.load(self._process.stdout)
        finally:
            timer.cancel()
        if error:
            raise CassError(error)

    def close(self) -> None:
        """End it at once, whatever it does; raises nothing."""
        self._process.kill()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END_SECONDS)


def main() -> None:
    """Compile what comes through standard input until that ends; answers an error, or nothing."""
    os.nice(_NICE)
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever compilers print
    while True:
        try:
            variant: Any = pickle.load(source)
        except EOFError:
            return
        error = ""
        try:
            variant.compile()
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
        try:
            pickle.dump(error, answers)
            answers.flush()
        except BrokenPipeError:  # the server has ended meanwhile
            os._exit(0)  # else Python would try again to write what is left


if __name__ == "__main__":
    main()
