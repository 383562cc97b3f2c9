"""Real servers with --http-port, asked with curl and beside gRPC."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cass_client import CassClient
from cass_core import generate_mask
from cass_server.config.settings import Settings
from tests.server.support.certificates import Authority, put, shown_serial
from tests.server.support.http import BOXES, JSON, answer_of
from tests.server.support.observed import scrape, value
from tests.server.support.processes import LIMIT, cass_server, free_port, held, wait_until
from tests.support.servers import ServerProcess, server_process, serving

CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")
TOKEN = "a-token-of-sixteen-or-more"
MASK = generate_mask([np.array([[8, 8, 24, 24]])], (32, 32), (4, 4))


def http_of(server: ServerProcess) -> str:
    """Where it serves HTTP."""
    address: str = server.records("http")[0]["address"]
    return address


def curl(*arguments: str) -> tuple[int, bytes]:
    """The status and the body that curl gets."""
    assert CURL is not None
    command = [
        CURL,
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, timeout=LIMIT, check=True)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def posted(address: str, body: Any, *arguments: str, scheme: str = "http") -> tuple[int, Any]:
    """What curl gets for JSON."""
    data = ("--json", json.dumps(body)) if isinstance(body, dict) else ("--data-binary", body)
    status, text = curl(*data, *arguments, f"{scheme}://{address}/v1/masks")
    return status, json.loads(text)


def asked(address: str, method: str = "POST", path: str = "/v1/masks") -> int:
    """The status of a request for a mask, or of another."""
    with contextlib.closing(HTTPConnection(address, timeout=LIMIT)) as connection:
        connection.request(method, path, json.dumps(BOXES), {"content-type": JSON})
        return answer_of(connection.getresponse()).status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Of two workers, with metrics and a token."""
    tokens = put(tmp_path_factory.mktemp("tokens") / "tokens", f"{TOKEN}\n".encode())
    options = ("--http-port", "0", "--metrics-port", "0", "--workers", "2")
    with serving(*options, "--token-file", str(tokens)) as started:
        yield started


@needs_curl
def test_curl(server: ServerProcess, tmp_path: Path) -> None:
    """Against two workers; the numbers are those of gRPC and of the core."""
    address, token = http_of(server), f"authorization: Bearer {TOKEN}"
    assert curl(f"http://{address}/healthz") == (200, b'{"status":"SERVING"}')
    assert posted(address, BOXES)[0] == 401
    status, answer = posted(address, BOXES, "--header", token)
    assert status == 200
    assert np.array_equal(np.array(answer["masks"][0], np.float32), MASK)
    with CassClient(server.address, token=TOKEN) as client:
        remote = client.generate_mask([np.array([[8, 8, 24, 24]], np.float32)], (32, 32), (4, 4))
    assert np.array_equal(remote, MASK)
    status, answer = posted(address, {**BOXES, "image_size": [0, 1]}, "--header", token)
    assert (status, answer["error"]["field"]) == (400, "image_size")
    large = tmp_path / "large"
    large.write_bytes(b" " * (9 << 20))
    headers = ("--header", token, "--header", "content-type: application/json")
    for more in ((), ("--header", "transfer-encoding: chunked"), ("--header", "expect:")):
        status, answer = posted(address, f"@{large}", *headers, *more)
        assert status == 413, answer


def test_all_workers_answer_and_are_counted(server: ServerProcess) -> None:
    """Each connection goes to one of them; their counts are added up."""
    before = value(scrape(server), "cass_requests_total", method="GenerateMask", code="OK")
    number = 40
    for _ in range(number):
        with contextlib.closing(HTTPConnection(http_of(server), timeout=LIMIT)) as connection:
            headers = {"content-type": JSON, "authorization": f"Bearer {TOKEN}"}
            connection.request("POST", "/v1/masks", json.dumps(BOXES), headers)
            assert answer_of(connection.getresponse()).status == 200
    after = value(scrape(server), "cass_requests_total", method="GenerateMask", code="OK")
    assert after - before == number


def test_tls_as_the_other_port_has_it(tmp_path: Path) -> None:
    """Mutual, and with certificates that are replaced meanwhile."""
    authority = Authority()
    first, second, mine = authority.issue(), authority.issue(), authority.issue("caller")
    ca = put(tmp_path / "ca.crt", authority.certificate)
    certificate = put(tmp_path / "tls.crt", first.certificate)
    key = put(tmp_path / "tls.key", first.key)
    own = put(tmp_path / "own.crt", mine.certificate), put(tmp_path / "own.key", mine.key)
    files = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", ca)
    with serving("--http-port", "0", *map(str, files)) as server:
        address = http_of(server)
        context = ssl.create_default_context(cafile=str(ca))
        stranger = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(*own)

        def status(context: ssl.SSLContext) -> int:
            url = f"https://{address}/healthz"
            with urllib.request.urlopen(url, timeout=LIMIT, context=context) as answer:
                return int(answer.status)

        assert status(context) == 200
        with pytest.raises(OSError):  # noqa: PT011 - as TLS 1.3 or the end of it tells
            status(stranger)
        put(key, second.key)
        put(certificate, second.certificate)
        wait_until(lambda: shown_serial(address) == second.serial, server)
        assert status(context) == 200
        assert server.stop() == 0
    assert all(line.startswith("{") for line in server.lines)


def _states(address: str, calls: Sequence[HTTPConnection]) -> list[int]:
    return [answer_of(call.getresponse()).status for call in calls]


def test_a_drain_answers_what_is_in_flight(tmp_path: Path) -> None:
    """And refuses what comes, until the port is closed; an idle connection holds nothing up."""
    program = held(tmp_path, "warm")
    with (
        server_process("--http-port", "0", program=program) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_until_serving()
        address = http_of(server)
        host, port = address.split(":")
        idle = stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT))
        call = stack.enter_context(contextlib.closing(HTTPConnection(address, timeout=LIMIT)))
        call.request("POST", "/v1/masks", json.dumps(BOXES), {"content-type": JSON})
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(signal.SIGTERM)

        def is_refused(*request: str) -> bool:
            try:
                return asked(address, *request) == 503
            except OSError:
                return True

        # A mask that comes before the signal is acted on waits as the other does.
        wait_until(lambda: is_refused("GET", "/v1/info"), server)
        assert is_refused()
        (tmp_path / "go").touch()
        assert _states(address, [call]) == [200]
        assert server.stop() == 0
        assert idle.recv(1) == b""
    assert all(line.startswith("{") for line in server.lines)


def test_health_tells_when_it_serves(tmp_path: Path) -> None:
    with server_process("--http-port", "0", program=held(tmp_path)) as server:
        address = server.wait_for("http")["address"]

        def health() -> tuple[int, Any]:
            with contextlib.closing(HTTPConnection(address, timeout=LIMIT)) as connection:
                connection.request("GET", "/healthz")
                answer = answer_of(connection.getresponse())
                return answer.status, answer.json

        assert health() == (503, {"status": "NOT_SERVING"})
        (tmp_path / "warm").touch()
        server.wait_until_serving()
        assert health() == (200, {"status": "SERVING"})


def test_many_callers_at_once(server: ServerProcess) -> None:
    """Each gets its own masks."""
    wrong: list[Any] = []

    def ask(side: int) -> None:
        body = {**BOXES, "feature_map": [side, side]}
        headers = {"content-type": JSON, "authorization": f"Bearer {TOKEN}"}
        with contextlib.closing(HTTPConnection(http_of(server), timeout=LIMIT)) as connection:
            for _ in range(10):
                connection.request("POST", "/v1/masks", json.dumps(body), headers)
                answer = answer_of(connection.getresponse())
                shape = np.shape(answer.json["masks"][0]) if answer.status == 200 else answer.body
                if answer.status != 429 and shape != (1, side, side):
                    wrong.append(shape)

    threads = [threading.Thread(target=ask, args=(side,)) for side in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not wrong


@pytest.mark.slow
def test_a_port_that_is_taken() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for workers in ("1", "2"):
            done = cass_server(
                *("serve", "--port", "0", "--device", "cpu", "--workers", workers),
                *("--http-port", str(port)),
            )
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"http_origins": "*"}, "http_origins: needs http_port too"),
        ({"http_port": 0, "host": "unix:/tmp/x"}, "http_port: needs a host with ports"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Settings(**given)


@pytest.mark.parametrize(
    "origins", ["here", "ftp://here", "http://a, http://b", "http://a/b", "*,*"]
)
def test_origins_that_are_none(origins: str) -> None:
    with pytest.raises(ValidationError):
        Settings(http_port=0, http_origins=origins)
    assert Settings(http_port=0, http_origins="https://a.example,http://[::1]:80").http_origins
