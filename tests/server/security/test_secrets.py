"""Passwords, tokens and keys are in no line that a server writes, however they got to it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cass.v1 import cass_pb2_grpc
from cass_client import CassClient, Tls, Unauthenticated
from cass_core.errors import CassError
from cass_server.config.sources import load_settings
from cass_server.security.tls import TlsFiles
from cass_server.security.tokens import TokenFile
from tests.client.support.small_servers import LIMIT
from tests.server.support.certificates import Authority, put
from tests.server.support.requests import mask_request
from tests.support.servers import serving
from tests.support.waiting import wait_until

SECRET = "Zebra-Quartz-0815-Onyx"
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)


def token_file(path: Path) -> None:
    """What the server makes of the setting."""
    TokenFile(path)


def tls_key(path: Path) -> None:
    """The same, beside a certificate."""
    TlsFiles(put(Path("tls.crt"), Authority().certificate), path, None)


def settings(path: Path) -> None:
    """The same of a file with settings."""
    load_settings({}, path)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (token_file, f"{SECRET} {SECRET}\n"),
        (token_file, f"sha256:{SECRET}\n"),
        (tls_key, PEM),
        (settings, f'token = "{SECRET}"\n'),
        (settings, f"token = {SECRET}\n"),
        (settings, f'host = "{SECRET}@cass"\n'),
        (settings, f'port = "{PEM}"\n'.replace("\n", "\\n")),
    ],
)
def test_files_that_are_refused(read: Callable[[Path], None], text: str) -> None:
    file = put(Path("file"), text.encode())
    with pytest.raises(CassError) as caught:
        read(file)
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("read", [token_file, tls_key])
@pytest.mark.parametrize("text", [SECRET, PEM, f"{SECRET}/{SECRET}"])
def test_the_secret_in_place_of_its_file(read: Callable[[Path], None], text: str) -> None:
    with pytest.raises(CassError, match="cannot be read: ") as caught:
        read(Path(text))
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HOST", f"http://me:{SECRET}@0.0.0.0:1"), ("METRICS_HOST", f"{SECRET}@metrics")],
)
def test_a_password_before_a_host(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CASS_{variable}", value)
    with pytest.raises(CassError) as caught:
        load_settings({})
    assert SECRET not in told(caught.value)


def told(error: BaseException) -> str:
    """All that a traceback shows of an error."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.slow)]
)
def test_a_server_at_work(protocol: str, tmp_path: Path) -> None:
    """With a collector that is not there, callers that are refused, and files that go bad."""
    secrets = {name: f"{name}-{SECRET}" for name in ("token", "wrong", "header", "broken", "proxy")}
    authority, tokens = Authority(), tmp_path / "tokens"
    pair = authority.issue("localhost")
    key = put(tmp_path / "tls.key", pair.key)
    secrets["key"] = pair.key.decode().splitlines()[1]
    files = {
        "--token-file": put(tokens, secrets["token"].encode()),
        "--tls-certificate": put(tmp_path / "tls.crt", pair.certificate),
        "--tls-key": key,
    }
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{SECRET}@127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        # The second one is none, of which OpenTelemetry warns.
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secrets['header']},{secrets['broken']}",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "http_proxy": f"http://me:{secrets['proxy']}@127.0.0.1:1",
    }
    arguments = [str(part) for option in files.items() for part in option]
    with serving("--telemetry", "--log-level", "debug", *arguments, env=env) as server:
        address = f"localhost:{server.address.rpartition(':')[2]}"
        tls = Tls(put(tmp_path / "ca.crt", authority.certificate))
        with CassClient(address, tls=tls, token=secrets["wrong"]) as stranger:
            with pytest.raises(Unauthenticated) as caught:
                stranger.generate_mask([], (32, 32), (4, 4))
            assert SECRET not in str(caught.value)
        credentials = grpc.ssl_channel_credentials(authority.certificate)
        known = ("authorization", f"Bearer {secrets['token']}")
        with grpc.secure_channel(address, credentials) as channel:
            ask = cass_pb2_grpc.CassServiceStub(channel).GenerateMask
            bad = mask_request()
            bad.mask_spec.patch_size = 0
            for metadata in ([known], [known, known]):
                with pytest.raises(grpc.RpcError) as refused:
                    ask(bad, metadata=metadata, timeout=LIMIT)
                assert SECRET not in str(refused.value)
        put(tokens, f"{secrets['token']} {SECRET}".encode())
        put(key, PEM.encode())
        # That each place which may leak was reached.
        for part in ("token file not usable", "TLS files not usable", "127.0.0.1:1", "(not shown)"):
            wait_until(lambda part=part: any(part in line for line in server.lines), str, LIMIT)
        server.stop()
    log = "".join(server.lines)
    assert not [name for name, secret in secrets.items() if secret in log]
    assert SECRET not in log
