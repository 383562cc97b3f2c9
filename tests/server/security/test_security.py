"""Which callers a real server admits, by tokens and TLS, and what errors give away."""

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
from tests.server.support.certificates import Authority, put
from tests.server.support.details import fails
from tests.server.support.load import (
    connect,
    is_answer,
    load,
    more_answers,
    numbered_request,
    service_of,
)
from tests.server.support.observed import complaints
from tests.server.support.processes import LIMIT, cass_server, held, status_name, wait_until
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
    return str(called(channel, method, metadata).code().name)


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the `server`."""
    return put(tmp_path_factory.mktemp("tokens") / "tokens", f"{TOKEN}\n{OLD}\n".encode())


@pytest.fixture(scope="module")
def server(token_file: Path) -> Iterator[ServerProcess]:
    """A server in plain text that needs tokens."""
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
def test_every_method_needs_a_token(channel: grpc.Channel, method: str) -> None:
    refused = ((), bearer(WRONG), bearer(TOKEN[:-1]), bearer(TOKEN) * 2)
    assert {outcome(channel, method, metadata) for metadata in refused} == {"UNAUTHENTICATED"}
    assert outcome(channel, method, bearer(TOKEN)) == METHODS[method]


def test_health_needs_no_token(server: ServerProcess, channel: grpc.Channel) -> None:
    assert outcome(channel, HEALTH) == outcome(channel, HEALTH, bearer(WRONG)) == "OK"
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert status_name(next(watch)) == "SERVING"
    watch.cancel()
    assert cass_server("health", "--address", server.address).returncode == 0


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
                assert (record.wrong, record.codes) == ([], ["UNAUTHENTICATED"])
            wait_until(more_answers([*new, *others]), server)
        for caller in (*new, *others):
            assert caller.record.errors == caller.record.wrong == []


def test_errors_do_not_tell_of_the_inside(channel: grpc.Channel) -> None:
    for message in (b"\xff" * 20, b"\x0a\x7f", b"\0", bytes(1000), b"\x0a\x04\x0a\x02\x00\x00"):
        for method in ("GenerateMask", "ComputeLoss"):
            made = called(channel, f"/cass.v1.CassService/{method}", bearer(TOKEN), message)
            assert made.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert not any(word in made.details() for word in ("Traceback", ".py", "/", "Error"))


@pytest.mark.slow
def test_a_failure_tells_nothing_and_is_logged_with_its_place(tmp_path: Path) -> None:
    words = "internal error; see the server's log"
    with (
        serving(program=held(tmp_path, "warm", "fail")) as server,
        service_of(server.address) as stub,
    ):
        with fails("INTERNAL", words) as caught:
            stub.GenerateMask(numbered_request(1), timeout=LIMIT)
        trailing = dict(caught.value.trailing_metadata())
        assert set(trailing) == {"grpc-status-details-bin", "x-request-id"}
        assert "asked to fail" not in repr(trailing)
        entry = pb.StreamMasksRequest(request=numbered_request(2))
        (answer,) = stub.StreamMasks(iter([entry]), timeout=LIMIT)
        assert answer.error == pb.Error(code=13, message=words)
        (tmp_path / "fail").unlink()
        (tmp_path / "go").touch()
        assert is_answer(stub.GenerateMask(numbered_request(3), timeout=LIMIT), 3)
        assert server.stop() == 0
    failed = [json.loads(line) for line in complaints(server)]
    assert [record["method"] for record in failed] == ["GenerateMask", "StreamMasks"]
    assert failed[0]["request_id"] == trailing["x-request-id"]
    assert all("held_server.py" in record["exc_info"] for record in failed)


@pytest.mark.slow
def test_mutual_tls_and_a_rotation_under_load(tmp_path: Path) -> None:
    """Beyond loopback, for which TLS needs no --insecure."""
    authority, successor = Authority(), Authority()
    ours, pair, fresh = authority.issue("client"), authority.issue(), successor.issue()
    certificate = put(tmp_path / "tls.crt", pair.certificate)
    key = put(tmp_path / "tls.key", pair.key)
    ca = put(tmp_path / "ca.crt", authority.certificate)
    options = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", ca)
    with serving("--host", "0.0.0.0", *map(str, options)) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        for stranger in (
            None,
            authority.trusted(),
            authority.trusted(Authority().issue()),
        ):
            with connect(address, stranger) as channel:
                assert outcome(channel, HEALTH) == "UNAVAILABLE"

        with load(address, credentials=authority.trusted(ours)) as open_ones:
            wait_until(more_answers(open_ones), server)
            put(key, fresh.key)
            put(certificate, fresh.certificate)
            with connect(address, authority.trusted(ours)) as channel:
                assert outcome(channel, HEALTH) == "UNAVAILABLE"  # trusts the old one alone
            trusting = successor.trusted(authority.issue("client"))
            with load(address, credentials=trusting) as new_ones:
                wait_until(more_answers([*open_ones, *new_ones]), server)
        for caller in (*open_ones, *new_ones):
            assert caller.record.errors == caller.record.wrong == []
        assert server.stop() == 0
    assert complaints(server) == []
