"""TLS on a real port: who is let in, and certificates that are replaced while it serves."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from cass_core.errors import CassError
from cass_server.security.tls import server_credentials
from tests.server.support.certificates import (
    Authority,
    Pair,
    encrypted,
    put,
    serial_of,
    shown_serial,
)

pytestmark = pytest.mark.timeout(60)

LIMIT = 20.0
"""Seconds that no step takes unless something is broken."""


@dataclass
class Files:
    """The files that a server is given, in a folder of their own."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        """The certificate's key."""
        return self.folder / "tls.key"

    @property
    def client_ca(self) -> Path:
        """Who vouches for clients."""
        return self.folder / "ca.crt"

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
    credentials = server_credentials(
        files.certificate, files.key, files.client_ca if mutual else None
    )
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=(PeerName(),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait(LIMIT)


def client(authority: Authority, pair: Pair | None = None) -> grpc.ChannelCredentials:
    """A client that trusts this authority and shows this certificate."""
    if pair is None:
        return grpc.ssl_channel_credentials(authority.certificate)
    return grpc.ssl_channel_credentials(authority.certificate, pair.key, pair.certificate)


def call(channel: grpc.Channel) -> str:
    """The address of this side of the connection, as the server sees it."""
    answer: bytes = channel.unary_unary("/test/PeerName")(b"", timeout=LIMIT)
    return answer.decode()


def outcome(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """The name of the status that a call on a new connection ends with, and why."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
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


def test_a_client_that_trusts_the_authority_is_answered(files: Files, authority: Authority) -> None:
    with serving(files) as address:
        assert outcome(address, client(authority)) == "OK"


def test_a_client_that_trusts_another_authority_refuses_the_server(
    files: Files, stranger: Authority
) -> None:
    with serving(files) as address:
        assert "CERTIFICATE_VERIFY_FAILED" in outcome(address, client(stranger))


def test_plain_text_is_not_answered(files: Files, authority: Authority) -> None:
    with serving(files) as address:
        assert outcome(address, None).startswith("UNAVAILABLE")
        assert outcome(address, client(authority)) == "OK"


def test_a_client_refuses_an_expired_server_certificate(files: Files, authority: Authority) -> None:
    files.write(authority.issue(expired=True))
    with serving(files) as address:
        assert "certificate has expired" in outcome(address, client(authority))


def test_a_client_refuses_a_server_certificate_for_another_name(
    files: Files, authority: Authority
) -> None:
    files.write(authority.issue("other.example"))
    with serving(files) as address:
        assert "Hostname Verification Check failed" in outcome(address, client(authority))


def test_mutual_tls_takes_only_valid_client_certificates_of_the_authority(
    files: Files, authority: Authority, stranger: Authority
) -> None:
    with serving(files, mutual=True) as address:
        refused = {
            "none": client(authority),
            "another authority's": client(authority, stranger.issue("client")),
            "expired": client(authority, authority.issue("client", expired=True)),
        }
        for credentials in refused.values():
            assert outcome(address, credentials).startswith("UNAVAILABLE")
        assert outcome(address, client(authority, authority.issue("client"))) == "OK"


def test_a_rotation_shows_new_connections_the_new_certificate_and_keeps_open_ones(
    files: Files, authority: Authority
) -> None:
    enough = threading.Semaphore(0)
    stop = threading.Event()
    peers: list[str] = []

    def ask(channel: grpc.Channel) -> None:
        while not stop.is_set():
            peers.append(call(channel))
            enough.release()

    with (
        serving(files) as address,
        grpc.secure_channel(address, client(authority)) as channel,
        ThreadPoolExecutor(1) as executor,
    ):
        asking = executor.submit(ask, channel)
        try:
            for _ in range(3):
                assert enough.acquire(timeout=LIMIT)
                fresh = authority.issue()
                files.write(fresh)
                assert shown_serial(address) == fresh.serial
            before = len(peers)
            while len(peers) < before + 3:
                assert enough.acquire(timeout=LIMIT)
        finally:
            stop.set()
        asking.result(timeout=LIMIT)  # raises what a call raised
    assert len(set(peers)) == 1


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
    caplog.set_level(logging.INFO, logger="cass_server")
    with serving(files) as address:
        assert outcome(address, client(authority)) == "OK"
        files.write(authority.issue())
        for _ in range(3):
            assert outcome(address, client(authority)) == "OK"
    read = [
        record for record in caplog.records if record.name == "cass_server.security.reloading_file"
    ]
    assert [record.getMessage() for record in read] == ["TLS files read again"]


@pytest.mark.parametrize("half", ["other certificate", "garbage", "empty", "missing", "no key"])
def test_files_that_cannot_be_used_leave_the_old_pair(
    files: Files, authority: Authority, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    old_serial = serial_of(ssl.PEM_cert_to_DER_cert(files.certificate.read_text()))
    fresh = authority.issue()

    def spoil() -> None:
        match half:
            case "other certificate":
                put(files.certificate, authority.issue().certificate)
            case "garbage":
                put(files.key, b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
            case "empty":
                put(files.certificate, b"")
            case "missing":
                files.certificate.unlink()
            case "no key":
                files.key.unlink()

    with serving(files) as address:
        spoil()
        for _ in range(3):
            assert shown_serial(address) == old_serial
        assert outcome(address, client(authority)) == "OK"
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
    ours = client(authority, authority.issue("client"))
    theirs = client(authority, stranger.issue("client"))
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
    path = {
        "tls_certificate": files.certificate,
        "tls_key": files.key,
        "tls_client_ca": files.client_ca,
    }[name]
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CassError) as raised:
        server_credentials(files.certificate, files.key, files.client_ca)
    assert str(raised.value).startswith(f"{name} {path}: ")


def test_the_start_refuses_a_key_of_another_certificate(files: Files, authority: Authority) -> None:
    put(files.key, authority.issue().key)
    with pytest.raises(
        CassError, match=r"^tls_key .* is not the unencrypted PEM key of .*MISMATCH"
    ):
        server_credentials(files.certificate, files.key, None)


def test_the_start_refuses_an_encrypted_key(files: Files) -> None:
    put(files.key, encrypted(files.key.read_bytes(), b"password"))
    with pytest.raises(CassError, match=r"^tls_key .* is not the unencrypted PEM key of "):
        server_credentials(files.certificate, files.key, None)
