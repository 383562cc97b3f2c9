"""What the tests of real server processes share."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import waiting
from tests.support.programs import ended
from tests.support.servers import ServerProcess

LIMIT = 60.0
"""Seconds that no step takes unless something is broken."""

_HELD = Path(__file__).parent / "programs" / "held_server.py"


def held(folder: Path, *files: str) -> tuple[str, ...]:
    """The program whose engine does what the files in this folder say; see `programs.held_server`.

    Args:
        folder: of the files.
        files: names of those to make now.
    """
    for file in files:
        (folder / file).touch()
    return str(_HELD), str(folder), "serve"


class Gate:
    """Holds threads until the test lets them go on."""

    def __init__(self) -> None:
        self._held = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._is_open = False

    def wait(self) -> None:
        """Block the calling thread."""
        self._held.release()
        if not self._is_open:
            assert self._go.acquire(timeout=LIMIT)

    def wait_held(self, threads: int = 1) -> None:
        """Return once so many more have come."""
        for _ in range(threads):
            assert self._held.acquire(timeout=LIMIT)

    def let_go(self, threads: int = 1) -> None:
        """Let so many go on."""
        self._go.release(threads)

    def open(self) -> None:
        """Hold nobody any more."""
        self._is_open = True
        self._go.release(1000)


def wait_until(condition: Callable[[], bool], server: ServerProcess | None = None) -> None:
    """Poll with a hard limit; fails if the server's process ends."""

    def log() -> str:
        return "it does not come true" if server is None else "".join(server.lines)

    def is_true() -> bool:
        assert server is None or server.process.poll() is None, log()
        return condition()

    waiting.wait_until(is_true, log, LIMIT, pause=0.02)


def lasting_ports(number: int) -> list[str]:
    """Ports that stay free while their servers are down, free on all loopback addresses.

    The system gives outgoing connections, and servers that ask for any port, those from 32768 on.
    """
    with contextlib.ExitStack() as stack:
        ports: list[str] = []
        while len(ports) < number:
            port = random.SystemRandom().randrange(10000, 32768)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("", port))
                ports.append(str(port))
        return ports


def free_port() -> int:
    """One of `lasting_ports`."""
    return int(lasting_ports(1)[0])


def health(address: str, service: str = "") -> str:
    """The status of a service, once somebody answers there."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(
            request, timeout=LIMIT, wait_for_ready=True
        )
    return status_name(answer)


def status_name(answer: health_pb2.HealthCheckResponse) -> str:
    """As in ``SERVING``."""
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def cass_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m cass_server` to its end."""
    return ended("-m", "cass_server", *arguments, env={"COLUMNS": "200"})
