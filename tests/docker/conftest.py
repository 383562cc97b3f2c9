"""The engine and the images that tests of containers share.

`make docker-test` sets CONTAINERS; without it nothing is built and no container started. With
CONTAINERS_REQUIRED=1 a missing engine is a failure. SERVER_IMAGE and CLIENT_IMAGE name images that
have been built already; without them they are built here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docker.engine import Engine, find_engine

ROOT = Path(__file__).resolve().parents[2]
_BUILD_SECONDS = 1800.0


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Docker or podman; the test is skipped without."""
    if not os.environ.get("CONTAINERS"):
        pytest.skip("containers are started by make docker-test")
    found = find_engine()
    if found is None:
        if os.environ.get("CONTAINERS_REQUIRED") == "1":
            pytest.fail("neither docker nor podman answers")
        pytest.skip("neither docker nor podman answers")
    return found


@pytest.fixture(scope="session")
def server_image(engine: Engine) -> str:
    """Name of the server's image for CPUs."""
    return os.environ.get("SERVER_IMAGE") or _build(engine, "cpu", "cass-server:test")


@pytest.fixture(scope="session")
def client_image(engine: Engine) -> str:
    """Name of the client's image."""
    return os.environ.get("CLIENT_IMAGE") or _build(engine, "client", "cass-client:test")


def _build(engine: Engine, target: str, tag: str) -> str:
    dockerfile = str(ROOT / "docker" / "Dockerfile")
    options = ("--file", dockerfile, "--target", target, "--tag", tag)
    # Podman's own format has no health checks.
    options += ("--format", "docker") if engine.program == "podman" else ()
    engine("build", *options, str(ROOT), limit=_BUILD_SECONDS)
    return tag
