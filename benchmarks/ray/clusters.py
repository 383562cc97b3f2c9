"""Starts a cluster of `ray_hosts` for `benchmarks.ray`, and ends all of its processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.common.processes import cpu_seconds, stat_fields, tree

NAME = "bench"
"""The service that replicas are of."""

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
# glibc is told what `keep_freed_memory` tells it in the server's process.
_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(16 << 20),
    "MALLOC_MMAP_MAX_": "0",
}


class Cluster:
    """A running cluster.

    Args:
        kind: as for `ray_hosts`.
        environment: for all of its processes.
        core: the only one that they may run on, from the time they run, if given.

    Attributes:
        address: for a driver of the cluster.
        addresses: where it takes calls, by the way that they come in.

    Raises:
        SystemExit: it does not run; says why.
    """

    def __init__(self, kind: str, environment: Mapping[str, str], core: int | None) -> None:
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ray.hosts", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_MEMORY, **environment},
            text=True,
        )
        try:
            self.address, self.addresses = self._wait()
            if core is not None:
                for pid in tree(self._process.pid):
                    _pin(pid, core)
        except BaseException:
            self.close()
            raise

    def _wait(self) -> tuple[str, dict[str, str]]:
        assert self._process.stdout is not None
        told_in_time, _, _ = select.select([self._process.stdout], (), (), _START_SECONDS)
        if told_in_time and (line := self._process.stdout.readline()):
            told = json.loads(line)
            return told["cluster"], told["addresses"]
        self._log.seek(0)
        raise SystemExit(f"the cluster does not run: {self._log.read()[-2000:]}")

    def cpu_seconds(self) -> float:
        """CPU time of all processes until now."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """End all of its processes."""
        started = {pid: stat_fields(pid)[19] for pid in tree(self._process.pid)}
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        for pid, start in started.items():
            with contextlib.suppress(OSError):
                if stat_fields(pid)[19] == start:
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def cluster(kind: str, environment: Mapping[str, str], core: int | None) -> Iterator[Cluster]:
    """A cluster that runs, ended at the end."""
    running = Cluster(kind, environment, core)
    try:
        yield running
    finally:
        running.close()


def idle_share(running: Cluster, seconds: float) -> float:
    """The cores that a cluster takes while nobody calls."""
    start, before = time.perf_counter(), running.cpu_seconds()
    time.sleep(seconds)
    return (running.cpu_seconds() - before) / (time.perf_counter() - start)


def _pin(pid: int, core: int) -> None:
    """Each thread for itself: what they start has their core."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), {core})
