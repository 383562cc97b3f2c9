"""Files of a server that serves: what its log, metrics and health say of them."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from cass_core import CassError
from cass_server.observability.metrics import Metrics
from cass_server.security.file_watch import FileWatch
from cass_server.security.reloading_file import ReloadingFiles
from cass_server.security.tls import TlsFiles
from cass_server.security.tokens import TokenFile
from tests.server.security.test_security import bearer, outcome
from tests.server.support.certificates import Authority, put
from tests.server.support.load import connect
from tests.server.support.observed import exposed, scrape, value
from tests.server.support.processes import health, wait_until
from tests.support.servers import serving

TOKEN = "valid-until-the-file-is-emptied"
OTHER = "another-one-of-the-same-length."
DAY = 24 * 3600.0
INFO = "/cass.v1.CassService/GetServerInfo"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("spoil", ["deleted", "a line"])
def test_a_token_file_that_cannot_be_used_is_reported(
    tmp_path: Path, spoil: str, workers: str
) -> None:
    """Without a call; the old tokens stay valid. An emptied one revokes all, also at the start."""
    path = put(tmp_path / "tokens", TOKEN.encode())
    options = ("--token-file", str(path), "--metrics-port", "0", "--workers", workers)

    def unusable() -> float:
        return value(scrape(server), "cass_files_unusable", files="tokens")

    with serving(*options) as server, connect(server.address) as channel:
        assert (unusable(), health(server.address, "cass.files")) == (0, "SERVING")
        if spoil == "deleted":
            path.unlink()
        else:
            put(path, f"{OTHER}\ntoo-short".encode())
        wait_until(lambda: unusable() == int(workers), server)
        wait_until(lambda: health(server.address, "cass.files") == "NOT_SERVING", server)
        assert health(server.address) == "SERVING"
        assert outcome(channel, INFO, bearer(TOKEN)) == "OK"
        assert outcome(channel, INFO, bearer(OTHER)) == "UNAUTHENTICATED"
        put(path, b"")
        wait_until(lambda: outcome(channel, INFO, bearer(TOKEN)) == "UNAUTHENTICATED", server)
        wait_until(lambda: unusable() == 0, server)
        wait_until(lambda: health(server.address, "cass.files") == "SERVING", server)
        assert server.stop() == 0
    with serving(*options) as server, connect(server.address) as channel:
        assert outcome(channel, INFO, bearer(TOKEN)) == "UNAUTHENTICATED"
        put(path, OTHER.encode())
        wait_until(lambda: outcome(channel, INFO, bearer(OTHER)) == "OK", server)
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_certificates_that_end_are_reported_without_a_handshake(
    tmp_path: Path, workers: str
) -> None:
    authority, now = Authority(days=3), time.time()
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    ca = put(tmp_path / "ca.crt", authority.certificate)

    def rotate(**options: Any) -> None:
        pair = authority.issue(**options)
        put(key, pair.key)
        put(certificate, pair.certificate)

    def days(setting: str) -> float:
        name = "cass_certificate_expiry_timestamp_seconds"
        return round((value(scrape(server), name, setting=setting) - now) / DAY, 1)

    rotate(expired=True)
    options = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", ca)
    more = ("--metrics-port", "0", "--workers", workers)
    with serving(*map(str, options), *more) as server:
        assert (days("tls_certificate"), days("tls_client_ca")) == (-1, 3)
        rotate(days=7)
        wait_until(lambda: days("tls_certificate") == 7, server)
        rotate(days=90)
        wait_until(lambda: days("tls_certificate") == 90, server)
        certificate.unlink()
        is_unusable = ("cass_files_unusable", (("files", "tls"),))
        wait_until(lambda: scrape(server)[is_unusable] == int(workers), server)
        assert days("tls_certificate") == 90
        assert server.stop() == 0
    warned = [
        (record["event"], record.get("tls_certificate", ""), record.get("tls_client_ca", ""))
        for record in server.records()
        if record["level"] == "WARNING"
    ]
    assert sorted(warned) == sorted(
        [
            ("certificate has expired", str(certificate), ""),
            ("certificate expires soon", str(certificate), ""),
            ("certificate expires soon", "", str(ca)),
        ]
        * int(workers)
    )


def test_a_certificate_that_ends_while_the_server_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Warned of from two weeks before, once a day, and when it ends."""
    pair, began = Authority().issue(days=60), time.time()
    tls = TlsFiles(put(tmp_path / "crt", pair.certificate), put(tmp_path / "key", pair.key), None)
    now = [began]
    watch = FileWatch(None, tls, Metrics(), lambda _: None, lambda: now[0])

    def events(day: float) -> list[str]:
        caplog.clear()
        now[0] = began + day * DAY
        watch.look()
        return caplog.messages

    soon, expired = ["certificate expires soon"], ["certificate has expired"]
    assert events(45.9) == []
    assert events(46.1) == soon
    assert events(47.0) == []
    assert events(47.2) == soon
    assert events(59.5) == soon
    assert events(59.9) == []
    assert events(60.1) == expired
    assert events(61.0) == []
    assert events(61.2) == expired
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_one_reason_is_enough(tmp_path: Path) -> None:
    """Of files of both kinds."""
    pair, reports, metrics = Authority().issue(), list[bool](), Metrics()
    tokens = TokenFile(put(tmp_path / "tokens", TOKEN.encode()))
    tls = TlsFiles(put(tmp_path / "crt", pair.certificate), put(tmp_path / "key", pair.key), None)
    watch = FileWatch(tokens, tls, metrics, reports.append)
    watch.look()
    put(tmp_path / "key", b"")
    watch.look()
    put(tmp_path / "tokens", b"short")
    watch.look()
    put(tmp_path / "key", pair.key)
    watch.look()
    put(tmp_path / "tokens", TOKEN.encode())
    watch.look()
    assert reports == [True, False, False, False, True]
    got = exposed([metrics])
    assert value(got, "cass_files_unusable", files="tls") == 0
    assert value(got, "cass_files_unusable", files="tokens") == 0


def test_the_earliest_end_of_all_workers_counts() -> None:
    early, late, none = Metrics(), Metrics(), Metrics()
    early.certificate_expires("tls_certificate", 2000.0)
    late.certificate_expires("tls_certificate", 3000.0)
    got = exposed([none, late, early])
    name = "cass_certificate_expiry_timestamp_seconds"
    assert {key: number for key, number in got.items() if key[0] == name} == {
        (name, (("setting", "tls_certificate"),)): 2000.0
    }


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("torn"), CassError("wrong")])
def test_whatever_a_read_raises_is_a_problem(tmp_path: Path, error: Exception) -> None:
    """And the old content stays."""
    path = put(tmp_path / "file", b"old")
    outcomes: list[bytes | Exception] = [b"new", error, b"old"]

    def read() -> bytes:
        found = outcomes.pop()
        if isinstance(found, Exception):
            raise found
        return found

    files = ReloadingFiles("files", {"file": path}, read)
    put(path, b"changed")
    assert (files.reload(), files.problem, files.content) == (False, str(error), b"old")
    assert (files.reload(), files.problem, files.content) == (True, "", b"new")
