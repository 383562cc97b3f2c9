"""A real cluster of three nodes on this machine, and services on it, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cass_client import CassClient
from cass_server.process.main import PORT_VARIABLE

LIMIT = 90.0
"""Seconds that no step takes unless something is broken."""

_ROOT = Path(__file__).parents[2]


class RayCluster:
    """The test's end of `tests.ray.program`, whose commands `do` gives it."""

    def __init__(self, folder: str) -> None:
        # The sockets' paths have to be short.
        self._environment = {
            **os.environ,
            "RAY_TMPDIR": folder,
            # Replicas that are killed leave files behind.
            "TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "COLUMNS": "200",
        }
        self._log = Path(folder, "log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray.program"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_ROOT,
                env=self._environment,
            )
        try:
            self.address: str = self.do("address")
        except BaseException:
            self.end()
            raise

    def do(self, *command: Any) -> Any:
        """Have a command done; its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(LIMIT, self.process.terminate)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
        assert line, f"{command}: the cluster's program ended:\n{self._log.read_text()}"
        answer = json.loads(line)
        assert "error" not in answer, (command, answer["error"])
        return answer["answer"]

    def server(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cass-server ray` on this cluster to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cass_server", "ray", "--address", self.address, *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=self._environment,
            check=False,
        )

    def end(self) -> None:
        """End all of it."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster; ended with all that runs on it."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        cluster = RayCluster(folder)
        try:
            yield cluster
        finally:
            cluster.end()


@contextlib.contextmanager
def calling(
    cluster: RayCluster, service: str = "cass", number: int = 4, pause: float = 0.0
) -> Iterator[None]:
    """Callers of a service, all of whose answers have to be right, and none missing."""
    cluster.do("call", service, number, pause)
    try:
        wait_for_answers(cluster)
        yield
        wait_for_answers(cluster)
    finally:
        record = cluster.do("hang_up")
    assert record["failures"] == []
    print(f"{record['right']} answers, the longest after {record['longest']:.2f} s")


def wait_for_answers(cluster: RayCluster, number: int = 20) -> None:
    """Until there are so many more right answers."""
    goal = cluster.do("record")["right"] + number
    wait_until(lambda: cluster.do("record")["right"] >= goal)


def wait_until(condition: Callable[[], bool], told: Callable[[], Any] = str) -> None:
    """Poll, with a hard limit.

    Args:
        condition: what to wait for.
        told: called for what to tell if it does not come about.
    """
    poll = threading.Event()
    for _ in range(int(LIMIT / 0.1)):
        if condition():
            return
        poll.wait(0.1)
    raise AssertionError(told())


def host_of(address: str) -> str:
    """The node's address."""
    return address.rpartition(":")[0]


def worker_at(address: str) -> int:
    """The process that serves there."""
    (found,) = (pid for pid, port in workers().items() if port == address.rpartition(":")[2])
    return found


def workers() -> dict[int, str]:
    """The ports of all worker processes on this machine that serve on Ray, by their ids."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if b"cass_server.process.worker" in (folder / "cmdline").read_bytes():
                lines = (folder / "environ").read_bytes().split(b"\0")
                variables = dict(line.decode().partition("=")[::2] for line in lines)
                if "RAY_JOB_ID" in variables:
                    found[int(folder.name)] = variables[PORT_VARIABLE]
    return found


def kill(process: int) -> None:
    """SIGKILL."""
    os.kill(process, signal.SIGKILL)


def most_images(address: str) -> int:
    """A limit that tells which settings a replica has."""
    with CassClient(address, timeout=LIMIT) as client:
        return client.info().limits["images"]
