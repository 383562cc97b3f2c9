"""TLS on a real port: which clients are answered, and certificates replaced meanwhile."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cass_core.errors import CassError
from cass_server.security.tls import TlsFiles
from tests.server.support.certificates import (
    Authority,
    Pair,
    encrypted,
    put,
    serial_of,
    shown_serial,
)
from tests.server.support.load import connect
from tests.server.support.processes import LIMIT


class Files:
    """The files that a server is given, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"
        self.client_ca = folder / "ca.crt"

    def write(self, pair: Pair) -> None:
        """Replace certificate and key."""
        put(self.certificate, pair.certificate)
        put(self.key, pair.key)


class PeerName(grpc.GenericRpcHandler):
    """Answers every call with the address of the connection it came by."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler`."""

        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            return str(context.peer()).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.contextmanager
def serving(files: Files, mutual: bool = False) -> Iterator[str]:
    """The address of a server with these files."""
    tls = TlsFiles(files.certificate, files.key, files.client_ca if mutual else None)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=(PeerName(),))
        port = server.add_secure_port("127.0.0.1:0", tls.credentials())
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait(LIMIT)


def call(channel: grpc.Channel) -> str:
    """The address of this side of the connection, as the server sees it."""
    answer: bytes = channel.unary_unary("/test/PeerName")(b"", timeout=LIMIT)
    return answer.decode()


def outcome(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """The name of the status that a call on a new connection ends with, and why."""
    with connect(address, credentials) as channel:
        try:
            call(channel)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    """Another authority of the same name."""
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    found = Files(tmp_path)
    found.write(authority.issue())
    put(found.client_ca, authority.certificate)
    return found


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reasons that were logged as errors."""
    return [record.reason for record in caplog.records if record.levelno == logging.ERROR]


def test_only_clients_that_trust_the_authority_are_answered(
    files: Files, authority: Authority, stranger: Authority
) -> None:
    with serving(files) as address:
        assert outcome(address, None).startswith("UNAVAILABLE")
        assert "CERTIFICATE_VERIFY_FAILED" in outcome(address, stranger.trusted())
        assert outcome(address, authority.trusted()) == "OK"


def test_mutual_tls_takes_only_valid_client_certificates_of_the_authority(
    files: Files, authority: Authority, stranger: Authority
) -> None:
    with serving(files, mutual=True) as address:
        for pair in (None, stranger.issue("client"), authority.issue("client", expired=True)):
            assert outcome(address, authority.trusted(pair)).startswith("UNAVAILABLE")
        assert outcome(address, authority.trusted(authority.issue("client"))) == "OK"


def test_a_rotation_shows_new_connections_the_new_certificate_and_keeps_open_ones(
    files: Files, authority: Authority
) -> None:
    with serving(files) as address, connect(address, authority.trusted()) as channel:
        peers = {call(channel)}
        for _ in range(3):
            fresh = authority.issue()
            files.write(fresh)
            assert shown_serial(address) == fresh.serial
            peers.add(call(channel))
    assert len(peers) == 1


def test_a_rotation_by_a_symbolic_link_is_seen(tmp_path: Path, authority: Authority) -> None:
    """As Kubernetes does it: the files are links through one that is swapped."""
    pairs = [authority.issue(), authority.issue()]
    for number, pair in enumerate(pairs):
        (tmp_path / str(number)).mkdir()
        Files(tmp_path / str(number)).write(pair)
    data = tmp_path / "..data"
    data.symlink_to("0")
    files = Files(tmp_path)
    files.certificate.symlink_to("..data/tls.crt")
    files.key.symlink_to("..data/tls.key")
    with serving(files) as address:
        assert shown_serial(address) == pairs[0].serial
        (tmp_path / "..data_tmp").symlink_to("1")
        os.replace(tmp_path / "..data_tmp", data)
        assert shown_serial(address) == pairs[1].serial


def test_unchanged_files_are_not_read_again(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cass_server.security")
    with serving(files) as address:
        assert outcome(address, authority.trusted()) == "OK"
        files.write(authority.issue())
        for _ in range(3):
            assert outcome(address, authority.trusted()) == "OK"
    assert caplog.messages == ["TLS files read again"]


GARBAGE = b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("half", ["other certificate", "garbage", "empty", "missing", "no key"])
def test_files_that_cannot_be_used_leave_the_old_pair(
    files: Files, authority: Authority, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    old_serial = serial_of(ssl.PEM_cert_to_DER_cert(files.certificate.read_text()))
    fresh = authority.issue()

    spoil = {
        "other certificate": lambda: put(files.certificate, authority.issue().certificate),
        "garbage": lambda: put(files.key, GARBAGE),
        "empty": lambda: put(files.certificate, b""),
        "missing": files.certificate.unlink,
        "no key": files.key.unlink,
    }[half]
    with serving(files) as address:
        spoil()
        for _ in range(3):
            assert shown_serial(address) == old_serial
        assert outcome(address, authority.trusted()) == "OK"
        assert len(errors(caplog)) == 1
        assert str(files.folder) in errors(caplog)[0]
        assert "secret" not in caplog.text

        files.write(fresh)
        assert shown_serial(address) == fresh.serial
        assert len(errors(caplog)) == 1

        spoil()
        assert shown_serial(address) == fresh.serial
        assert len(errors(caplog)) == 2


def test_client_authorities_are_read_again(
    files: Files, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ours = authority.trusted(authority.issue("client"))
    theirs = authority.trusted(stranger.issue("client"))
    with serving(files, mutual=True) as address:
        put(files.client_ca, b"nonsense")
        assert outcome(address, ours) == "OK"
        assert errors(caplog) == [f"tls_client_ca {files.client_ca}: holds no PEM certificates"]
        put(files.client_ca, stranger.certificate)
        assert outcome(address, theirs) == "OK"
        assert outcome(address, ours).startswith("UNAVAILABLE")


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_the_start_names_the_setting_and_the_file(
    files: Files, name: str, content: bytes | None
) -> None:
    path: Path = getattr(files, name.removeprefix("tls_"))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CassError, match=f"^{name} {path}: "):
        TlsFiles(files.certificate, files.key, files.client_ca)


def test_the_start_refuses_a_key_of_another_certificate_or_an_encrypted_one(
    files: Files, authority: Authority
) -> None:
    reason = r"^tls_key .* is not the unencrypted PEM key of "
    put(files.key, encrypted(files.key.read_bytes(), b"password"))
    with pytest.raises(CassError, match=reason):
        TlsFiles(files.certificate, files.key, None)
    put(files.key, authority.issue().key)
    with pytest.raises(CassError, match=rf"{reason}.*MISMATCH"):
        TlsFiles(files.certificate, files.key, None)
