"""A real server, good callers in a process of their own, and what an attack does to both."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.processes import tree
from tests.hostile.support.table import ROW
from tests.server.support.processes import wait_until
from tests.support.servers import ServerProcess, serving

_PROGRAM = Path(__file__).with_name("good_callers.py")


class GoodCallers:
    """Callers that are to notice as little of an attack as can be.

    Attributes:
        answers: when each right answer came, on the monotonic clock, and after how many seconds.
        failures: of calls, and wrong answers, in words.
    """

    def __init__(self, target: str, number: int, token: str = "") -> None:
        self.answers: list[tuple[float, float]] = []
        self.failures: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), target, str(number), token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                return  # of a process that was killed while it wrote
            found = json.loads(line)
            if isinstance(found, str):
                self.failures.append(found)
            else:
                self.answers.append((found[0], found[1]))

    def wait_more(self, answers: int = 50) -> None:
        """Return once there are so many more right answers; fails with a call."""
        goal = len(self.answers) + answers

        def are_there() -> bool:
            assert not self.failures, self.failures
            assert self._process.poll() is None, "the callers' process has ended"
            return len(self.answers) >= goal

        wait_until(are_there)

    def stop(self) -> None:
        """End the process, in the middle of its calls."""
        self._process.kill()
        self._process.communicate()
        self._reader.join()


class Scene:
    """A server under attack.

    Attributes:
        server: a real process.
        good: beside the attack.
    """

    def __init__(self, server: ServerProcess, good: GoodCallers) -> None:
        self.server = server
        self.good = good
        self._began = time.monotonic()
        self._memory = 0

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self.server.address

    def begin(self) -> None:
        """The attack begins; what was before is not counted, but for failures."""
        self._began = time.monotonic()

    def stop_good(self) -> None:
        """Stop the good callers before the server is to end, whose memory so far is kept."""
        self.good.stop()
        self._memory = peak_memory(self.server.process.pid)

    def row(self) -> dict[str, Any]:
        """What the good callers have seen since the attack began, and the server's most memory."""
        seconds = [took for ended, took in tuple(self.good.answers) if ended >= self._began]
        return {
            "answers": len(seconds),
            "p99_ms": 1e3 * float(np.percentile(seconds, 99)) if seconds else None,
            "memory_mib": max(self._memory, peak_memory(self.server.process.pid)) / 2**20,
        }


def peak_memory(pid: int) -> int:
    """The most resident bytes that a process and its children have had, each at its own time."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(FileNotFoundError):
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
            total += int(status.partition("VmHWM:")[2].split()[0]) << 10
    return total


@contextlib.contextmanager
def under_attack(
    record: Callable[[str, Any], None],
    attack: str,
    *arguments: str,
    callers: int = 2,
    token: str = "",
    target: Callable[[str], str] = lambda address: address,
    **options: Any,
) -> Iterator[Scene]:
    """A server with good callers who are being answered; no call of theirs may fail to the end.

    Args:
        record: the fixture ``record_property``, for the table at the end of the run.
        attack: what the table calls it.
        arguments: of ``cass-server serve``.
        callers: how many, each with a client of its own.
        token: of the callers.
        target: theirs, for the server's address: a proxy's address, say.
        options: of `tests.support.servers.serving`.
    """
    with serving(*arguments, **options) as server:
        good = GoodCallers(target(server.address), callers, token)
        try:
            good.wait_more(20)
            scene = Scene(server, good)
            scene.begin()
            try:
                yield scene
            finally:
                record(ROW, {"attack": attack, **scene.row()})
            assert not good.failures, good.failures
        finally:
            good.stop()
