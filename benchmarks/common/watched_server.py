"""A real `cass-server` process for a benchmark, and what the kernel reports of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.processes import cpu_seconds, thread_seconds, tree

_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds now: memory, open descriptors, threads of all kinds."""

    resident_bytes: int
    files: int
    threads: int


class WatchedServer:
    """A server on a free port of this machine, ended by `close`.

    Args:
        arguments: of `cass-server serve`, beside the address.
        core: the only one it may run on, if given.

    Attributes:
        address: where it listens.
        metrics_address: where its metrics are; empty if it has none.
        complaints: lines of its log with an error, or that are no log.
    """

    def __init__(self, *arguments: str, core: int | None = None) -> None:
        command = [sys.executable, "-m", "cass_server", "serve", "--port", "0", *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        self.complaints: list[str] = []
        self.metrics_address = ""
        self.address = self._wait_until_serving()
        # Unread, its log would fill the pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _wait_until_serving(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                if record.get("event") == "metrics":
                    self.metrics_address = record["address"]
                # With workers, each of them has a line of its own before the server's.
                if record.get("event") == "serving" and record["pid"] == self._process.pid:
                    return str(record["address"])
        raise SystemExit("the server ended before it served")

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError, TypeError):
                level = ""
            if level not in ("DEBUG", "INFO", "WARNING"):
                self.complaints.append(line.strip())

    @property
    def pid(self) -> int:
        """The first process."""
        return self._process.pid

    def pids(self) -> list[int]:
        """The processes: the server and its workers."""
        return tree(self.pid)

    def cpu_seconds(self) -> float:
        """CPU time of all processes until now."""
        return cpu_seconds(self.pid)

    def thread_seconds(self) -> float:
        """The same of living threads, in nanoseconds where `cpu_seconds` counts ticks."""
        return sum(thread_seconds(self.pids()).values())

    def usage(self) -> dict[int, Usage]:
        """Of each process, by its id."""
        return {pid: _usage(pid) for pid in self.pids()}

    def close(self) -> int:
        """Stop it as an operator would; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=_STOP_SECONDS)
        finally:
            self._process.kill()
            self._reader.join(timeout=_STOP_SECONDS)


@contextlib.contextmanager
def watched_server(*arguments: str, core: int | None = None) -> Iterator[WatchedServer]:
    """A server that serves, ended at the end."""
    server = WatchedServer(*arguments, core=core)
    try:
        yield server
    finally:
        server.close()


def _usage(pid: int) -> Usage:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(int(status["VmRSS"].split()[0]) << 10, files, int(status["Threads"]))
