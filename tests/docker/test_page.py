"""The commands of docs/deployment.md for one container, as they stand but for names and ports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_client import CassClient, Tls, Unauthenticated, Unavailable
from tests.docker.asking import is_right
from tests.docker.engine import LIMIT, Engine
from tests.docker.shell import Shell
from tests.docker.test_client_container import ANNOTATIONS
from tests.e2e.pages import command_lines, page
from tests.server.support.certificates import Authority, Pair, put, shown_serial
from tests.server.support.processes import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(200, func_only=True)  # images may have to be built first

LINES = command_lines(page("docs/deployment.md"))
NAME, PORT = f"cass-page-{os.getpid()}", free_port()
REPLACED = {
    "--name cass": f"--name {NAME}",
    "exec cass ": f"exec {NAME} ",
    "127.0.0.1:50051:50051": f"127.0.0.1:{PORT}:50051",
    "-p 50051:50051": f"-p 127.0.0.1:{PORT}:50051",
    "localhost:50051": f"localhost:{PORT}",
}
INFO = "cass info --server localhost:50051"


@pytest.fixture
def shell(engine: Engine, server_image: str, client_image: str, tmp_path: Path) -> Iterator[Shell]:
    """One whose images have the page's names; its container is removed at the end."""
    engine("tag", server_image, "cass-server")
    engine("tag", client_image, "cass-client")
    yield Shell(engine, tmp_path, REPLACED)
    engine.run("rm", "--force", NAME)


def line(*parts: str) -> str:
    """The page's line with these parts."""
    (found,) = (one for one in LINES if all(part in one for part in parts))
    return found


def test_one_container(shell: Shell) -> None:
    with shell.start("exec " + line("docker run", "--rm", "-p", "CASS_INSECURE")) as started:
        wait_until(lambda: shell.succeeds(INFO))
        assert "SERVING" in shell(line("docker exec cass"))
        (shell.folder / "instances.json").write_text(json.dumps(ANNOTATIONS), encoding="utf-8")
        shell(line("docker run", "cass-client"))
        assert (shell.folder / "masks.npz").stat().st_size > 0
        shell(f"docker stop -t 40 {NAME}")
        assert started.wait(LIMIT) == 0


def test_one_container_locked_up(shell: Shell) -> None:
    shell(line("docker run -d", "--read-only"))
    wait_until(lambda: shell.succeeds(INFO))


def test_one_container_with_tls(shell: Shell) -> None:
    """Another user reads the mounted files, and certificates are replaced while it serves."""
    authority, token = Authority(), "a-token-of-a-test"
    folder = shell.folder / "tls"
    folder.mkdir()
    ca = put(folder / "ca.crt", authority.certificate)
    put(folder / "tokens", token.encode())

    def write(served: Pair) -> int:
        put(folder / "tls.crt", served.certificate)
        put(folder / "tls.key", served.key)
        return served.serial

    write(authority.issue("localhost"))
    folder.chmod(0o755)
    mine = authority.issue("loader")
    pair = put(shell.folder / "c.crt", mine.certificate), put(shell.folder / "c.key", mine.key)
    healthy = f"docker exec {NAME} python /opt/cass/health.py"
    shell(line("docker run -d", "CASS_TLS_CLIENT_CA"))
    wait_until(lambda: shell.succeeds(healthy))
    address, trusted = f"127.0.0.1:{PORT}", Tls(ca, server_name="localhost")
    known = Tls(ca, *pair, server_name="localhost")
    with CassClient(address, tls=trusted, token=token) as nobody, pytest.raises(Unavailable):
        is_right(nobody)
    with CassClient(address, tls=known) as caller, pytest.raises(Unauthenticated):
        is_right(caller)
    with CassClient(address, tls=known, token=token) as client:
        assert is_right(client)
        fresh = write(authority.issue("localhost"))
        assert shown_serial(address) == fresh
        assert shell.succeeds(healthy)
        assert is_right(client)
