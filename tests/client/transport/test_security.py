"""A client's certificates and tokens at a real server, and what changes while it runs."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cass_client import (
    AsyncCassClient,
    CassClient,
    FallbackWarning,
    InvalidRequest,
    Tls,
    Unauthenticated,
    Unavailable,
)
from tests.client.support.tls_files import Files
from tests.server.support.certificates import put
from tests.server.support.processes import wait_until
from tests.support.programs import ended
from tests.support.servers import serving

TOKEN, OTHER = "valid-in-every-test-of-it", "of-the-right-length-but-no"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def ask(address: str, **options: Any) -> str:
    with CassClient(address, timeout=60, **options) as client:
        return client.info().device


def test_tls(files: Files) -> None:
    """What a wrong certificate or name gives is in test_diagnosis."""
    with serving(*files.server_arguments()) as server:
        assert ask(server.address, tls=Tls(ca=files.ca)) == "cpu"
    files.issue("server", "cass.example")
    with serving(*files.server_arguments()) as server:
        assert ask(server.address, tls=Tls(ca=files.ca, server_name="cass.example")) == "cpu"


@pytest.mark.slow
def test_several_servers(files: Files) -> None:
    arguments = files.server_arguments()
    with serving(*arguments) as first, serving(*arguments) as second:
        target = f"{first.address},{second.address}"
        with CassClient(target, timeout=60, tls=Tls(ca=files.ca)) as client:
            assert client.info().device == "cpu"
            first.kill()
            for _ in range(4):
                assert client.info().device == "cpu"


def test_mutual_tls_with_a_pair_that_is_replaced(files: Files) -> None:
    """A client that was refused looks whether its files have changed."""
    files.issue("client", "loader", strange=True)
    with (
        serving(*files.server_arguments("--tls-client-ca", files.ca)) as server,
        CassClient(server.address, timeout=60, tls=files.tls()) as client,
    ):
        with pytest.raises(Unavailable):
            client.info()
        files.issue("client", "loader")
        assert client.info().device == "cpu"


def test_tokens(tmp_path: Path) -> None:
    known = put(tmp_path / "known", TOKEN.encode())
    with serving("--token-file", str(known)) as server:
        assert ask(server.address, token=TOKEN) == "cpu"
        assert ask(server.address, token_file=known) == "cpu"
        for options in ({}, {"token": OTHER}):
            with pytest.raises(Unauthenticated) as caught:
                ask(server.address, **options)
            cause = caught.value.__cause__
            assert isinstance(cause, grpc.RpcError)
            assert cause.code() is grpc.StatusCode.UNAUTHENTICATED
        assert TOKEN not in repr(CassClient(server.address, token=TOKEN)._settings)


def test_a_token_file_that_changes(tmp_path: Path) -> None:
    known = put(tmp_path / "known", TOKEN.encode())
    mine = put(tmp_path / "mine", f"\ufeff{OTHER}\r\n".encode())  # as Windows writes it
    with serving("--token-file", str(known)) as server:
        with CassClient(server.address, timeout=60, token_file=mine) as client:
            with pytest.raises(Unauthenticated):
                client.info()
            put(mine, TOKEN.encode())
            assert client.info().device == "cpu"
            requests = []
            assert list(client.stream_masks(requests)) == []

        async def ask_async() -> str:
            put(mine, OTHER.encode())
            async with AsyncCassClient(server.address, timeout=60, token_file=mine) as client:
                with pytest.raises(Unauthenticated):
                    await client.info()
                put(mine, TOKEN.encode())
                return (await client.info()).device

        assert asyncio.run(ask_async()) == "cpu"


@pytest.mark.slow
def test_a_token_that_changes_under_several_threads(tmp_path: Path) -> None:
    """One of them is refused first, and reads the file; to the others it has not changed then."""
    known = put(tmp_path / "known", TOKEN.encode())
    mine = put(tmp_path / "mine", TOKEN.encode())
    stop = threading.Event()
    with (
        serving("--token-file", str(known)) as server,
        CassClient(server.address, timeout=60, token_file=mine) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def call() -> int:
            calls = 0
            while not stop.is_set():
                client.info()
                calls += 1
            return calls

        try:
            threads = [pool.submit(call) for _ in range(8)]
            for old, new in ((TOKEN, OTHER), (OTHER, TOKEN)):
                put(known, f"{old}\n{new}\n".encode())
                wait_until(lambda token=new: not is_refused(server.address, token), server)
                put(mine, new.encode())
                put(known, new.encode())
                wait_until(lambda token=old: is_refused(server.address, token), server)
        finally:
            stop.set()
        assert all(thread.result(timeout=60) for thread in threads)


def is_refused(address: str, token: str) -> bool:
    try:
        ask(address, token=token)
    except Unauthenticated:
        return True
    return False


def test_a_file_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    known = put(tmp_path / "known", TOKEN.encode())
    mine = put(tmp_path / "mine", TOKEN.encode())
    with serving("--token-file", str(known)) as server:
        client = CassClient(server.address, timeout=60, token_file=mine, fallback="local")
        assert client.generate_mask([None], (8, 8), (2, 2)).shape == (1, 2, 2)
        assert client.local_answers == 0
    mine.unlink()
    with pytest.warns(FallbackWarning):
        assert client.generate_mask([None], (8, 8), (2, 2)).shape == (1, 2, 2)
    assert client.local_answers == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tls": "ca.pem"}, "tls: must be a Tls, got str"),
        ({"token": "a", "token_file": "b"}, "token_file: cannot be given beside a token"),
        ({"token": "a\nb"}, "token: must be printable ASCII without blanks"),
        ({"token": ""}, "token: must be printable ASCII without blanks"),
        ({"token_file": ""}, "token_file: must be the path of a file, got ''"),
        ({"fallback": "remote"}, "fallback: must be \"local\" or None, got 'remote'"),
    ],
)
def test_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CassClient("localhost:1", **options)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"certificate": "a"}, "tls: a certificate and its key go together"),
        ({"ca": ""}, "tls.ca: must be the path of a file, got ''"),
        ({"ca": b"-----BEGIN"}, "tls.ca: must be the path of a file, got bytes"),
        ({"certificate": "a", "key": ""}, "tls.key: must be the path of a file, got ''"),
        *(
            (
                {"server_name": name},
                f"tls.server_name: must be a host's name without a port, got {name!r}",
            )
            for name in ("", " ", "cass.example:50051", "https://cass.example", 7)
        ),
    ],
)
def test_tls_that_cannot_be_used(options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Tls(**options)
    assert str(caught.value) == error


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for options, field in (
        ({"tls": Tls(ca=absent)}, "tls.ca"),
        ({"token_file": absent}, "token_file"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            ask("localhost:1", **options)
        assert str(caught.value) == f"{field}: cannot read {absent}: No such file or directory"
    empty = put(tmp_path / "empty", b"\n")
    with pytest.raises(InvalidRequest, match=r"^token_file: must be printable ASCII"):
        ask("localhost:1", token_file=empty)


@pytest.mark.slow
def test_the_command_line(files: Files) -> None:
    token = put(files.folder / "token", TOKEN.encode())
    ca, (certificate, key) = files.ca, files.pair("client")
    arguments = files.server_arguments("--tls-client-ca", ca, "--token-file", token)
    options: dict[str, Path] = {
        "--tls-ca": ca,
        "--tls-certificate": certificate,
        "--tls-key": key,
        "--token-file": token,
    }
    with serving(*arguments) as server:

        def info(options: dict[str, Path]) -> subprocess.CompletedProcess[str]:
            words = [word for option in options.items() for word in option]
            return ended("-m", "cass_cli", "info", "--server", server.address, *words)

        done = info(options)
        assert done.returncode == 0, done.stderr
        assert server.address in done.stdout
        del options["--token-file"]
        done = info(options)
        assert done.returncode == 1
        assert done.stderr == f"cass: {server.address}: {WANTED}\n"


WANTED = "a valid token is needed: authorization: Bearer TOKEN"
