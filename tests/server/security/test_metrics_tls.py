"""Metrics over TLS: who may read them, and certificates replaced meanwhile."""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.request
from pathlib import Path

import pytest
from pydantic import ValidationError

from cass_server.config.settings import Settings
from tests.server.support.certificates import Authority, Pair, put, shown_serial
from tests.server.support.observed import Samples, samples
from tests.server.support.processes import LIMIT, wait_until
from tests.support.servers import serving


def write(folder: Path, pair: Pair) -> tuple[Path, Path]:
    """Certificate and key, as files."""
    return put(folder / "tls.crt", pair.certificate), put(folder / "tls.key", pair.key)


def read(address: str, ca: Path, pair: tuple[Path, Path] | None) -> Samples:
    """The metrics, with this certificate shown."""
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(*pair)
    url = f"https://{address}/metrics"
    with urllib.request.urlopen(url, timeout=LIMIT, context=context) as answer:
        return samples(answer.read().decode())


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_mutual_tls_and_a_rotation(tmp_path: Path, workers: str) -> None:
    authority = Authority()
    ca = put(tmp_path / "ca.crt", authority.certificate)
    first, second = authority.issue(), authority.issue()
    certificate, key = write(tmp_path, first)
    (tmp_path / "mine").mkdir()
    mine = write(tmp_path / "mine", authority.issue("reader"))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", Authority().issue("reader"))
    files = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", ca)
    options = ("--metrics-port", "0", "--metrics-tls", "--workers", workers)
    with contextlib.ExitStack() as stalled, serving(*map(str, files), *options) as server:
        address = server.records("metrics")[0]["address"]
        host, port = address.split(":")
        for _ in range(10):  # which keep nobody waiting, nor the server from its end
            stalled.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT))
        assert ("cass_workers", ()) in read(address, ca, mine)
        for stranger in (None, other):
            with pytest.raises(OSError):  # noqa: PT011 - as TLS 1.3 or the end of it tells
                read(address, ca, stranger)
        with pytest.raises(OSError):  # noqa: PT011 - no HTTP
            urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT)
        assert shown_serial(address) == first.serial
        put(key, second.key)
        put(certificate, second.certificate)
        wait_until(lambda: shown_serial(address) == second.serial, server)
        assert ("cass_workers", ()) in read(address, ca, mine)
        assert server.stop() == 0
    assert all(line.startswith("{") for line in server.lines)


def test_it_needs_a_certificate() -> None:
    with pytest.raises(ValidationError, match=r"metrics_tls: needs tls_certificate"):
        Settings(metrics_tls=True)
