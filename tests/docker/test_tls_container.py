"""Mutual TLS and tokens from mounted files, which are replaced while the server serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_client import CassClient, Tls, Unauthenticated, Unavailable
from tests.docker.asking import PLAIN, is_right
from tests.docker.engine import Engine
from tests.server.support.certificates import Authority, Pair, put, shown_serial

pytestmark = pytest.mark.timeout(120, func_only=True)  # images may have to be built first

TOKEN = "a-token-of-a-test"

NAME = "cass.test"
"""What the server's certificates are for: not the address at which it is asked."""

SECURED = (
    "--env=CASS_TLS_CERTIFICATE=/tls/tls.crt",
    "--env=CASS_TLS_KEY=/tls/tls.key",
    "--env=CASS_TLS_CLIENT_CA=/tls/ca.crt",
    "--env=CASS_TOKEN_FILE=/tls/tokens",
)


def write(folder: Path, pair: Pair) -> None:
    put(folder / "tls.crt", pair.certificate)
    put(folder / "tls.key", pair.key)


def test_mounted_certificates_are_rotated(
    engine: Engine, server_image: str, tmp_path: Path
) -> None:
    authority = Authority()
    servers, clients = tmp_path / "server", tmp_path / "client"
    for folder in (servers, clients):
        folder.mkdir()
        put(folder / "ca.crt", authority.certificate)
    put(servers / "tokens", TOKEN.encode())
    write(servers, authority.issue(NAME))
    write(clients, authority.issue("loader"))
    servers.chmod(0o755)  # it is another user who reads it
    trusted = Tls(ca=clients / "ca.crt", server_name=NAME)
    known = Tls(clients / "ca.crt", clients / "tls.crt", clients / "tls.key", NAME)
    volume = ("--volume", f"{servers}:/tls:ro")
    with engine.container(server_image, *PLAIN[2:], *volume, *SECURED) as server:
        server.wait_until(server.is_healthy)
        address = server.published(50051)
        with CassClient(address, tls=trusted, token=TOKEN) as nobody, pytest.raises(Unavailable):
            is_right(nobody)
        with CassClient(address, tls=known) as caller, pytest.raises(Unauthenticated):
            is_right(caller)
        fresh = authority.issue(NAME)
        with CassClient(address, tls=known, token=TOKEN) as client:
            assert is_right(client)
            write(servers, fresh)
            assert shown_serial(address) == fresh.serial
            assert server.is_healthy()
            assert is_right(client)
        with CassClient(address, tls=known, token=TOKEN) as another:
            assert is_right(another)
