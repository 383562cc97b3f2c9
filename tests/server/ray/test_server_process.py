"""The server process of a replica: started, asked for its health, drained, killed, refused."""

from __future__ import annotations

import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_client import CassClient, Tls
from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.ray.server_process import NativeServer, settings_at
from tests.client.support.faults import ask, assert_right
from tests.server.support.certificates import Authority, put
from tests.server.support.observed import samples, value
from tests.server.support.processes import LIMIT

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]


@pytest.fixture
def server() -> Iterator[NativeServer]:
    """One that serves."""
    started = NativeServer(settings_at(Settings(device="cpu"), "127.0.0.3"))
    yield started
    started.stop()


def test_serves_and_tells_its_load(server: NativeServer) -> None:
    assert server.address.startswith("127.0.0.3:")
    server.check()
    server.load.mean()
    with CassClient(server.address, timeout=LIMIT) as client:
        assert_right([ask(client, 3)], [3])
    assert 0 < server.load.mean() < 1
    assert server.exit_code is None
    server.stop()
    assert server.exit_code == 0


def test_serves_the_metrics_of_its_process() -> None:
    server = NativeServer(settings_at(Settings(device="cpu", metrics_port=0), "127.0.0.3"))
    try:
        with CassClient(server.address, timeout=LIMIT) as client:
            assert_right([ask(client, 3)], [3])
        assert server.metrics_address.startswith("127.0.0.3:")
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as answer:
            found = samples(answer.read().decode())
        assert value(found, "cass_requests_total", method="GenerateMask", code="OK") == 1
    finally:
        server.stop()


def test_says_that_its_process_is_gone(server: NativeServer) -> None:
    server._process.send_signal(signal.SIGKILL)
    server._process.wait(LIMIT)
    assert server.exit_code == -signal.SIGKILL
    with pytest.raises(CassError, match="the server ended with code -9"):
        server.check()


def test_says_that_its_process_hangs(server: NativeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cass_server.ray.server_process._CHECK_SECONDS", 0.5)
    server._process.send_signal(signal.SIGSTOP)
    with pytest.raises(CassError, match=r"127.0.0.3:\d+: DEADLINE_EXCEEDED"):
        server.check()
    server._process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("mutual", [False, True])
def test_health_with_tls(tmp_path: Path, mutual: bool) -> None:
    authority = Authority()
    pair = authority.issue("cass.example", uri="spiffe://cass/server")
    put(tmp_path / "tls.crt", pair.certificate)
    put(tmp_path / "tls.key", pair.key)
    put(tmp_path / "ca.crt", authority.certificate)
    settings = Settings(
        device="cpu",
        tls_certificate=tmp_path / "tls.crt",
        tls_key=tmp_path / "tls.key",
        tls_client_ca=tmp_path / "ca.crt" if mutual else None,
    )
    server = NativeServer(settings_at(settings, "127.0.0.3"))
    try:
        server.check()
        own = (tmp_path / "tls.crt", tmp_path / "tls.key") if mutual else (None, None)
        tls = Tls(tmp_path / "ca.crt", *own, server_name="cass.example")
        with CassClient(server.address, tls=tls, timeout=LIMIT) as client:
            assert_right([ask(client, 3)], [3])
    finally:
        server.stop()
    assert server.exit_code == 0


def test_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(CassError, match=r"^token_file .*none: cannot be read"):
        NativeServer(Settings(device="cpu", token_file=tmp_path / "none"))


def test_leaves_no_files_however_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = NativeServer(settings_at(Settings(device="cpu"), "127.0.0.3"))
    try:
        assert list(tmp_path.iterdir()) == []
    finally:
        server.stop()
    with pytest.raises(CassError):
        NativeServer(Settings(device="cpu", token_file=tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_plain_text_beyond_loopback_is_asked_for() -> None:
    reason = "10.0.0.3 can be reached from other machines: set tls_certificate and tls_key"
    with pytest.raises(CassError, match=reason):
        settings_at(Settings(), "10.0.0.3")
    assert settings_at(Settings(insecure=True), "10.0.0.3").host == "10.0.0.3"
