"""Images and containers through docker or podman, whichever answers."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.waiting import wait_until

LIMIT = 60.0
"""Seconds that no step takes unless something is broken."""


@dataclass(frozen=True)
class Engine:
    """A container engine."""

    program: str

    def run(self, *arguments: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to the end."""
        return subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=limit, check=False
        )

    def __call__(self, *arguments: str, limit: float = LIMIT) -> str:
        """What one of its commands prints; fails unless it exits with 0."""
        done = self.run(*arguments, limit=limit)
        told = f"{self.program} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, told
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """Everything the engine knows of an image or a container."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found

    @contextlib.contextmanager
    def container(
        self, image: str, *options: str, command: tuple[str, ...] = ()
    ) -> Iterator[Container]:
        """A container that has been started; removed at the end."""
        container = Container(self, self("run", "--detach", *options, image, *command))
        try:
            yield container
        finally:
            container.remove()

    def finish(self, image: str, *options: str, command: tuple[str, ...]) -> str:
        """Run a container to its end; what it prints. Fails unless it exits with 0."""
        with self.container(image, *options, command=command) as container:
            code, printed = container.wait(), container.logs()
        assert code == 0, printed
        return printed

    @contextlib.contextmanager
    def network(self, name: str) -> Iterator[str]:
        """A network of that name; removed at the end."""
        self("network", "create", name)
        try:
            yield name
        finally:
            self("network", "rm", name)


@dataclass(frozen=True)
class Container:
    """A container that runs, or has ended."""

    engine: Engine
    id: str

    def logs(self) -> str:
        """What its program has printed so far."""
        done = self.engine.run("logs", self.id)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """``Running``, ``ExitCode``, ``OOMKilled`` and what else there is."""
        state: dict[str, Any] = self.engine.inspect(self.id)["State"]
        return state

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Poll with a hard limit; fails with the log if the program ends."""

        def met() -> bool:
            if condition():
                return True
            assert self.state()["Running"], self.logs()
            return False

        wait_until(met, self.logs, LIMIT, 0.1)

    def wait_until_serving(self) -> None:
        """Wait for the line of a server's log that tells so."""
        self.wait_until(lambda: '"event": "serving"' in self.logs())

    def published(self, port: int) -> str:
        """The address on this machine at which a port of the container is published."""
        return self.engine("port", self.id, str(port)).splitlines()[0]

    def address(self, network: str) -> str:
        """Its address in a network; engines differ in whether names are resolved there."""
        networks = self.engine.inspect(self.id)["NetworkSettings"]["Networks"]
        return str(networks[network]["IPAddress"])

    def execute(self, *command: str) -> str:
        """What a command prints that is run in the container; fails unless it exits with 0."""
        return self.engine("exec", self.id, *command)

    def is_healthy(self) -> bool:
        """Whether the image's health check passes now."""
        if self.engine.program == "podman":
            return self.engine.run("healthcheck", "run", self.id).returncode == 0
        # Docker runs it at intervals alone.
        kind, *command = self.engine.inspect(self.id)["Config"]["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.engine.run("exec", self.id, *command).returncode == 0

    def signal(self, name: str) -> None:
        """Send its first process a signal such as ``SIGTERM``."""
        self.engine("kill", "--signal", name, self.id)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        # `podman wait` may take 20 s more, where what cleans up after a container does not run.
        wait_until(lambda: not self.state()["Running"], self.logs, LIMIT, 0.1)
        return int(self.state()["ExitCode"])

    def remove(self) -> None:
        """End and remove it, whatever it does."""
        self.engine.run("kill", self.id)  # fails if it has ended
        self.engine("rm", "--force", self.id)


def find_engine() -> Engine | None:
    """The first engine that answers."""
    for program in ("docker", "podman"):
        engine = Engine(program)
        with contextlib.suppress(FileNotFoundError):
            # Docker's client is often there without its engine.
            if engine.run("info").returncode == 0:
                return engine
    return None
