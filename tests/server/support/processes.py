"""What the tests of real server processes share."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.servers import ServerProcess

LIMIT = 60.0
"""Seconds that no step takes unless something is broken."""

_HELD = Path(__file__).with_name("held_server.py")


def held(folder: Path) -> tuple[str, ...]:
    """The program whose engine does what the files in this folder say; see `held_server`."""
    return str(_HELD), str(folder), "serve"


def wait_until(condition: Callable[[], bool], server: ServerProcess | None = None) -> None:
    """Poll with a hard limit; fails if the server's process ends."""
    poll = threading.Event()
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if condition():
            return
        if server is not None:
            assert server.process.poll() is None, "".join(server.lines)
        poll.wait(0.02)
    raise AssertionError("it does not come true" if server is None else "".join(server.lines))


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
    return subprocess.run(
        [sys.executable, "-m", "cass_server", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
