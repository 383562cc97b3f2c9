"""Mutual TLS and tokens from mounted files, which are replaced while the server serves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cass_client import CassClient, Tls, Unauthenticated, Unavailable
from tests.docker.asking import PLAIN, is_right
from tests.docker.engine import LIMIT, Engine
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


def test_mounted_certificates_are_rotated_while_calls_run(
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
    answered = threading.Semaphore(0)
    stop = threading.Event()

    def ask(client: CassClient) -> None:
        while not stop.is_set():
            assert is_right(client)
            answered.release()

    volume = ("--volume", f"{servers}:/tls:ro")
    publish = PLAIN[2:]
    with engine.container(server_image, *publish, *volume, *SECURED) as server:
        server.wait_until(server.is_healthy)
        address = server.published(50051)
        with CassClient(address, tls=trusted, token=TOKEN) as nobody, pytest.raises(Unavailable):
            is_right(nobody)
        with CassClient(address, tls=known) as caller, pytest.raises(Unauthenticated):
            is_right(caller)
        with CassClient(address, tls=known, token=TOKEN) as client, ThreadPoolExecutor(1) as thread:
            asking = thread.submit(ask, client)
            try:
                assert answered.acquire(timeout=LIMIT)
                fresh = authority.issue(NAME)
                write(servers, fresh)
                assert shown_serial(address) == fresh.serial
                assert server.is_healthy()
                with CassClient(address, tls=known, token=TOKEN) as another:
                    assert is_right(another)
                assert answered.acquire(timeout=LIMIT)
            finally:
                stop.set()
            asking.result(timeout=LIMIT)  # raises what a call raised
