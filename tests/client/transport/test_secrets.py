"""Tokens, passwords and keys are in no error of the client, no log and no `repr`."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from cass_client import CassClient, CassError, Tls
from tests.client.support.small_servers import LIMIT

SECRET = "Zebra-Quartz-0815-Onyx"
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def proxy() -> Iterator[str]:
    """The address of an HTTP proxy that lets nobody through."""

    def refuse(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)


def reported(target: Any, options: Callable[[], dict[str, Any]] = dict) -> str:
    """All that a client says that cannot reach its server, or is not made at all."""

    def ask() -> None:
        with CassClient(target, timeout=2.0, **options()) as client:
            assert SECRET not in repr(client)
            client.info()

    with pytest.raises(CassError) as caught:
        ask()
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        f"https://me:{SECRET}@cass:50051",
        f"me:{SECRET}@cass:50051",
        f"dns:///me:{SECRET}@cass:50051",
        f"{SECRET}@cass",
        [f"me:{SECRET}@cass:50051"],
    ],
)
def test_targets(target: Any) -> None:
    assert SECRET not in reported(target)


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"token": SECRET},  # nobody is there
        lambda: {"token": f"{SECRET}\n"},
        lambda: {"token": SECRET.encode()},
        lambda: {"token_file": SECRET},
        lambda: {"token_file": "file"},
        lambda: {"tls": Tls(certificate="file", key=PEM)},
        lambda: {"tls": Tls(certificate="file", key=cast(Any, PEM.encode()))},
        lambda: {"tls": Tls(certificate="file", key="file")},
    ],
)
def test_what_is_no_token_and_no_key(
    options: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.chdir(tmp_path)
    Path("file").write_text(f"{SECRET} {SECRET}", encoding="utf-8")
    assert SECRET not in reported("127.0.0.1:1", options)
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_the_password_of_a_proxy(
    proxy: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@{proxy}")
    # An address of documentation (RFC 5737), which the proxy alone is asked for.
    text = reported("192.0.2.1:50051")
    assert "407" in text
    assert SECRET not in text + "".join(capfd.readouterr())
