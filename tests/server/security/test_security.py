"""Who gets into a real server and who does not: tokens, TLS, and what errors give away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.certificates import Authority, Pair, put
from tests.server.support.load import connect, is_answer, load, more_answers, numbered_request
from tests.server.support.observed import complaints
from tests.server.support.processes import LIMIT, cass_server, health, held, status_name, wait_until
from tests.server.support.raw_http2 import DATA, END_STREAM, HEADERS, Connection, call, opening
from tests.support.servers import ServerProcess, serving

TOKEN = "valid-in-every-test-of-it"
OLD = "rotated-out-while-it-is-used"
NEW = "rotated-in-while-it-is-used"
WRONG = "of-the-right-length-but-no"

HEALTH = "/grpc.health.v1.Health/Check"
METHODS = {
    # An empty message, with the right token.
    "/cass.v1.CassService/GenerateMask": "INVALID_ARGUMENT",
    "/cass.v1.CassService/ComputeLoss": "INVALID_ARGUMENT",
    "/cass.v1.CassService/StreamMasks": "OK",
    "/cass.v1.CassService/GetServerInfo": "OK",
    "/cass.v1.CassService/NoSuchMethod": "UNIMPLEMENTED",
    "/no.such.Service/Method": "UNIMPLEMENTED",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "OK",
    "/grpc.channelz.v1.Channelz/GetServers": "OK",
}

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)


def called(channel: grpc.Channel, method: str, metadata: Metadata, message: bytes = b"") -> Any:
    """A call that has ended."""
    made = channel.stream_stream(method)(iter([message]), metadata=metadata, timeout=LIMIT)
    with contextlib.suppress(grpc.RpcError):
        list(made)
    return made


def outcome(channel: grpc.Channel, method: str, metadata: Metadata = ()) -> str:
    """Name of the status that a call with an empty message ends with."""
    name: str = called(channel, method, metadata).code().name
    return name


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the `server`."""
    return put(tmp_path_factory.mktemp("tokens") / "tokens", f"{TOKEN}\n{OLD}\n".encode())


@pytest.fixture(scope="module")
def server(token_file: Path) -> Iterator[ServerProcess]:
    """A server in plain text that asks for tokens."""
    with serving("--token-file", str(token_file), "--channelz") as started:
        yield started
        assert started.stop() == 0
    log = "".join(started.lines)
    assert not any(token in log for token in (TOKEN, OLD, NEW, WRONG))


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """A connection to the `server`."""
    with connect(server.address) as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_every_method_asks_for_a_token(channel: grpc.Channel, method: str) -> None:
    refused = ((), bearer(WRONG), bearer(TOKEN[:-1]), bearer(TOKEN) * 2)
    assert {outcome(channel, method, metadata) for metadata in refused} == {"UNAUTHENTICATED"}
    assert outcome(channel, method, bearer(TOKEN)) == METHODS[method]


def test_health_asks_for_none(server: ServerProcess, channel: grpc.Channel) -> None:
    assert outcome(channel, HEALTH) == outcome(channel, HEALTH, bearer(WRONG)) == "OK"
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert status_name(next(watch)) == "SERVING"
    watch.cancel()
    assert cass_server("health", "--address", server.address).returncode == 0


@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
def test_a_caller_is_refused_before_its_message_is_read(server: ServerProcess, method: str) -> None:
    with Connection(server.address) as client:
        client.send(opening(), call(method))
        while (got := client.read()) is not None:
            kind, flags, _, payload = got
            assert kind != DATA
            if kind == HEADERS and flags & END_STREAM:
                break
        assert got is not None
        assert b"grpc-status\x0216" in payload


def test_tokens_rotated_under_load(server: ServerProcess, token_file: Path) -> None:
    """Both are valid for a while; then the old one's callers are refused, and only these."""
    with (
        connect(server.address) as channel,
        load(server.address, callers=2, metadata=bearer(OLD)) as old,
        load(server.address, callers=2, metadata=bearer(TOKEN)) as others,
    ):
        info = "/cass.v1.CassService/GetServerInfo"
        assert outcome(channel, info, bearer(NEW)) == "UNAUTHENTICATED"
        put(token_file, f"{TOKEN}\n{OLD}\n{NEW}\n".encode())
        wait_until(lambda: outcome(channel, info, bearer(NEW)) == "OK", server)
        with load(server.address, callers=2, metadata=bearer(NEW)) as new:
            wait_until(more_answers([*old, *new, *others]), server)
            put(token_file, f"{TOKEN}\n{NEW}\n".encode())
            for caller in old:
                record = caller.join()
                assert [error.code().name for error in record.errors] == ["UNAUTHENTICATED"]
                assert record.wrong == []
            wait_until(more_answers([*new, *others]), server)
        for caller in (*new, *others):
            assert caller.record.errors == caller.record.wrong == []


def test_errors_do_not_tell_of_the_inside(channel: grpc.Channel) -> None:
    for message in (b"\xff" * 20, b"\x0a\x7f", b"\0", bytes(1000), b"\x0a\x04\x0a\x02\x00\x00"):
        for method in ("GenerateMask", "ComputeLoss"):
            made = called(channel, f"/cass.v1.CassService/{method}", bearer(TOKEN), message)
            assert made.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert not any(word in made.details() for word in ("Traceback", ".py", "/", "Error"))


def test_a_failure_tells_nothing_and_is_logged_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    (tmp_path / "fail").touch()
    with (
        serving(program=held(tmp_path)) as server,
        connect(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GenerateMask(numbered_request(1), timeout=LIMIT)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error; see the server's log"
        trailing = dict(caught.value.trailing_metadata())
        assert "told to fail" not in repr(trailing)
        (entry,) = stub.StreamMasks(
            iter([pb.StreamMasksRequest(request=numbered_request(2))]), timeout=LIMIT
        )
        assert entry.error == pb.Error(code=13, message="internal error; see the server's log")
        (tmp_path / "fail").unlink()
        (tmp_path / "go").touch()
        assert is_answer(stub.GenerateMask(numbered_request(3), timeout=LIMIT), 3)
        assert server.stop() == 0
    failed = [json.loads(line) for line in complaints(server)]
    assert [record["method"] for record in failed] == ["GenerateMask", "StreamMasks"]
    assert failed[0]["request_id"] == trailing["x-request-id"]
    assert all("held_server.py" in record["exc_info"] for record in failed)


class Identity:
    """A client's files and what it trusts."""

    def __init__(self, folder: Path, root: bytes, pair: Pair) -> None:
        """Write the files for `cass-server health`."""
        self.credentials = grpc.ssl_channel_credentials(root, pair.key, pair.certificate)
        self.ca = put(folder / "ca.crt", root)
        self.certificate = put(folder / "tls.crt", pair.certificate)
        self.key = put(folder / "tls.key", pair.key)


@pytest.fixture
def authority() -> Authority:
    """Vouches for the server and its clients."""
    return Authority()


def test_mutual_tls_and_a_rotation_under_load(authority: Authority, tmp_path: Path) -> None:
    """Beyond loopback, for which TLS needs no --insecure."""
    ours = _identity(tmp_path / "ours", authority.certificate, authority.issue("client"))
    options = []
    pair = authority.issue()
    for name, content in (
        ("--tls-certificate", pair.certificate),
        ("--tls-key", pair.key),
        ("--tls-client-ca", authority.certificate),
    ):
        options += [name, str(put(tmp_path / name.strip("-"), content))]
    with serving("--host", "0.0.0.0", *options) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        assert _health(address, "--tls-ca", ours.ca) == (1, "UNAVAILABLE")
        shown = ("--tls-certificate", ours.certificate, "--tls-key", ours.key)
        assert _health(address, "--tls-ca", ours.ca, *shown) == (0, "SERVING")
        for stranger in (
            None,
            grpc.ssl_channel_credentials(authority.certificate),
            _identity(tmp_path / "theirs", authority.certificate, Authority().issue()).credentials,
        ):
            with connect(address, stranger) as channel:
                assert outcome(channel, HEALTH) == "UNAVAILABLE"

        with load(address, credentials=ours.credentials) as open_ones:
            wait_until(more_answers(open_ones), server)
            successor = Authority()
            fresh = successor.issue()
            put(tmp_path / "tls-key", fresh.key)
            put(tmp_path / "tls-certificate", fresh.certificate)
            with connect(address, ours.credentials) as channel:
                assert outcome(channel, HEALTH) == "UNAVAILABLE"  # trusts the old one alone
            trusting = _identity(
                tmp_path / "trusting", successor.certificate, authority.issue("client")
            )
            with load(address, credentials=trusting.credentials) as new_ones:
                wait_until(more_answers([*open_ones, *new_ones]), server)
        for caller in (*open_ones, *new_ones):
            assert caller.record.errors == caller.record.wrong == []
        assert server.stop() == 0
    assert complaints(server) == []


def _identity(folder: Path, root: bytes, pair: Pair) -> Identity:
    folder.mkdir()
    return Identity(folder, root, pair)


def _health(address: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and the word of a health check."""
    done = cass_server("health", "--address", address, *map(str, arguments))
    return done.returncode, (done.stdout + done.stderr).split()[1].rstrip(":")


def test_plain_text_beyond_loopback_has_to_be_asked_for() -> None:
    refused = cass_server("serve", "--host", "0.0.0.0", "--port", "0", "--device", "cpu")
    assert refused.returncode == 2
    assert "0.0.0.0 can be reached from other machines" in refused.stderr
    with serving("--host", "0.0.0.0", "--insecure") as server:
        assert health(server.address) == "SERVING"
