"""The stack of docker/compose.yaml, started and ended through docker compose or podman-compose."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.conftest import ROOT
from tests.docker.engine import LIMIT, Container, Engine
from tests.docker.shell import Shell
from tests.server.support.processes import free_port
from tests.support.waiting import wait_until

COMPOSE = ROOT / "docker" / "compose.yaml"

_UP_SECONDS = 120.0


def content() -> dict[str, Any]:
    """The compose file with the defaults of its variables."""
    read: dict[str, Any] = yaml.safe_load(
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text(encoding="utf-8"))
    )
    return read


def compose_program(engine: Engine) -> list[str]:
    """The command that reads compose files; the test is skipped without."""
    if engine.program == "docker":
        if engine.run("compose", "version").returncode != 0:
            pytest.skip("needs docker's compose plugin")
        return ["docker", "compose"]
    name = "podman-compose"
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("needs podman-compose (pip install podman-compose)")
    return [found]


class Stack:
    """Services that run, under a name and on ports of their own."""

    def __init__(self, engine: Engine, profile: str) -> None:
        self._engine = engine
        self.project = f"cass-test-{os.getpid()}"
        port, self._prometheus = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._environment = {
            **os.environ,
            # podman-compose adds --profile to that of .env.
            "COMPOSE_PROFILES": profile,
            "PUBLISH_PORT": str(port),
            "PROMETHEUS_PORT": str(self._prometheus),
        }
        self._command = [*compose_program(engine), "-p", self.project, "-f", str(COMPOSE)]

    def shell(self, folder: Path, replaced: Mapping[str, str]) -> Shell:
        """A shell in which `docker compose` has this stack's name and ports."""
        compose = self._command[: self._command.index("-f")]
        return Shell(self._engine, folder, replaced, compose, self._environment)

    def __call__(self, *arguments: str) -> None:
        """Run one of compose's commands; fails unless it exits with 0."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            timeout=_UP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def end(self) -> None:
        """Remove containers, network and volumes, as far as there are any."""
        subprocess.run(
            [*self._command, "down", "--volumes", "--timeout", "5"],
            env=self._environment,
            capture_output=True,
            timeout=_UP_SECONDS,
            check=False,
        )

    def containers(self, service: str) -> list[Container]:
        """Those of a service."""
        labels = {"project": self.project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
        told = self._engine("ps", "--all", "--quiet", "--no-trunc", *filters)
        return [Container(self._engine, id) for id in told.split()]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now: a ``metric`` and a ``value`` for each series."""
        address = f"http://127.0.0.1:{self._prometheus}/api/v1/query?"
        address += urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address, timeout=LIMIT) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def number(self, expression: str) -> float:
        """The value of the only series; 0 if there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll with a hard limit."""

        def met() -> bool:
            with contextlib.suppress(OSError):  # not listening yet
                return condition()
            return False

        def logs() -> str:
            proxies = [c for name in ("proxy", "proxy-tls") for c in self.containers(name)]
            return "\n".join([f"never: {what}", *(proxy.logs() for proxy in proxies)])

        wait_until(met, logs, LIMIT, 0.2)


@contextlib.contextmanager
def stack(engine: Engine, profile: str) -> Iterator[Stack]:
    """A stack with nothing started; all of it is removed at the end."""
    made = Stack(engine, profile)
    try:
        yield made
    finally:
        made.end()
