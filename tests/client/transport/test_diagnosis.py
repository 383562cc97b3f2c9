"""What is said about a server that cannot be reached: why, by address, and what helps."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from cass_client import AsyncCassClient, CassClient, FallbackWarning, Tls, Unavailable
from cass_client.calls import retry
from cass_client.config import Settings
from cass_client.discovery.endpoint_file import FOLDER_VARIABLE
from cass_client.transport.diagnosis import explain
from tests.client.support.tls_files import Files
from tests.server.support.certificates import put
from tests.server.support.processes import LIMIT, free_port, health, held
from tests.support.servers import ServerProcess, server_process, serving

pytestmark = pytest.mark.timeout(120)

SERVE = "start a server there with `cass-server serve`"
AWAY = (
    f'{SERVE}, or compute in this process: with the target "local:", or with fallback="local" '
    "while it is away"
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more try instead of three seconds of them."""
    monkeypatch.setattr(retry, "_UNAVAILABLE_DELAYS_SECONDS", (0.02,))


def reason(target: str, **options: Any) -> str:
    """What follows the target in the error."""
    with (
        CassClient(target, timeout=LIMIT, **options) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.info()
    assert str(caught.value).startswith(f"{target}: ")
    return str(caught.value).removeprefix(f"{target}: ")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert reason(address) == f"cannot be reached ({address}: Connection refused): {AWAY}"
        # Of several addresses, what each said.
        other = f"127.0.0.2:{address.partition(':')[2]}"
        said = f"({address}: Connection refused, {other}: Connection refused)"
        assert reason(f"{address},{other}") == f"cannot be reached {said}: {AWAY}"
        with (
            CassClient(address, timeout=LIMIT, fallback="local") as client,
            pytest.warns(FallbackWarning, match=rf"refused\): {SERVE}; masks .* until it is back"),
        ):
            client.generate_mask([None], (8, 8), (2, 2))


def test_no_longer_than_the_call_may_take() -> None:
    """An address that accepts and is silent is known as such after seconds only."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = Settings(address, LIMIT)
        assert explain(settings, (), "gRPC's words", 0.0) == "gRPC's words"
        said = f"cannot be reached ({address}: accepts connections, but does not answer)"
        assert explain(settings, (), "gRPC's words", LIMIT).startswith(said)


def test_replicas_on_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a process knows them that was started by one that is connected to Ray."""
    pytest.importorskip("ray")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    replicas = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    (tmp_path / "masks").write_text(json.dumps(replicas))
    said = ", ".join(f"{replica}: Connection refused" for replica in replicas)
    assert reason("ray:masks") == f"cannot be reached ({said}): {AWAY}"


def test_by_an_event_loop(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/absent"

    async def ask() -> None:
        async with AsyncCassClient(target, timeout=LIMIT) as client:
            await client.info()

    with pytest.raises(Unavailable) as caught:
        asyncio.run(ask())
    said = f"cannot be reached ({tmp_path}/absent: No such file or directory): {AWAY}"
    assert str(caught.value) == f"{target}: {said}"


def test_a_host_that_does_not_exist() -> None:
    said = reason("absent.invalid:50051")
    assert said.startswith("cannot be reached (absent.invalid: ")
    assert said.endswith("): see whether the name is right")


def test_a_server_that_is_starting(tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=held(tmp_path)):
        address = f"127.0.0.1:{port}"
        assert health(address) == "NOT_SERVING"
        assert reason(address) == "is not ready to serve: it is starting, or about to stop"


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize("old", [False, True])
def test_an_http_1_server(old: bool) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        if not old:  # whose error has a status line, as nginx's
            server.RequestHandlerClass = type(
                "New", (Page,), {"default_request_version": "HTTP/1.1"}
            )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_port}"
            said = f"cannot be reached ({address}: an HTTP/1 server)"
            assert (
                reason(address) == f"{said}: give the address of a CASS server, not of its metrics"
            )
        finally:
            server.shutdown()
            thread.join(LIMIT)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def mutual(files: Files) -> Iterator[ServerProcess]:
    """A server that wants certificates of its clients."""
    with serving(*files.server_arguments("--tls-client-ca", files.ca)) as server:
        yield server


AUTHORITY = "give the certificate of its authority as Tls(ca=...)"


def test_tls_and_no_tls(files: Files, server: ServerProcess) -> None:
    def said(target: str, **options: Any) -> str:
        address = target.replace("localhost", "127.0.0.1")  # the last one, beside another family's
        return reason(target, **options).partition(f"{address}: ")[2]

    with serving(*files.server_arguments()) as secured:
        address = secured.address
        local = address.replace("127.0.0.1", "localhost")
        for target in (address, local):
            assert said(target) == "speaks only TLS): give tls=Tls(ca=...)"
        unknown = "its certificate is of no authority that"
        assert said(address, tls=Tls()) == f"{unknown} the system knows): {AUTHORITY}"
        assert said(address, tls=Tls(files.other_ca)) == f"{unknown} tls.ca has): {AUTHORITY}"
        for target, name in ((local, None), (address, "cass.example"), (address, "10.0.0.1")):
            assert said(target, tls=Tls(files.ca, server_name=name)) == (
                f"its certificate is not for {name or 'localhost'}): give Tls(server_name=...) a "
                "name that it is for"
            )
    none = "does not speak TLS): leave tls out, or start it with --tls-certificate"
    for target in (server.address, server.address.replace("127.0.0.1", "localhost")):
        assert said(target, tls=Tls(files.ca)) == none


def test_tls_at_a_path(files: Files, tmp_path: Path) -> None:
    certificate, key = (file.read_bytes() for file in files.pair("server"))
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_secure_port(f"unix:{tmp_path}/s", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    try:
        said = f"cannot be reached ({tmp_path}/s: speaks only TLS): give tls=Tls(ca=...)"
        assert reason(f"unix:{tmp_path}/s") == said
    finally:
        server.stop(None).wait(LIMIT)


def test_an_expired_certificate(files: Files) -> None:
    files.issue("expired", "127.0.0.1", expired=True)
    with serving(*files.server_arguments(name="expired")) as server:
        said = reason(server.address, tls=Tls(files.ca))
        assert said.endswith(": its certificate has expired): renew it")


def test_certificates_of_clients(files: Files, mutual: ServerProcess) -> None:
    def said(tls: Tls) -> str:
        return reason(mutual.address, tls=tls).partition(f"({mutual.address}: ")[2]

    assert said(Tls(files.ca)) == "wants a client certificate): give Tls(certificate=..., key=...)"
    files.issue("stranger", "loader", strange=True)
    files.issue("late", "loader", expired=True)
    for name in ("stranger", "late"):
        assert said(files.tls(name)) == (
            "refuses the client's certificate): give a valid one of an authority it knows"
        )


def test_files_that_are_wrong(files: Files, mutual: ServerProcess) -> None:
    certificate, key = files.pair("client")
    nothing = put(files.folder / "nothing", b"nothing")
    for tls, text in (
        (Tls(nothing), f"tls.ca: {nothing} has no certificate in PEM"),
        (
            Tls(files.ca, certificate, files.pair("server")[1]),
            "tls.key: is not the key of tls.certificate",
        ),
        (
            Tls(files.ca, nothing, key),
            "tls.certificate, tls.key: are not a pair in PEM with a key that is not encrypted",
        ),
    ):
        assert reason(mutual.address, tls=tls) == f"cannot be reached: {text}"
