"""What users may write for an address, and what gRPC is given for it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from cass_client import CassClient, InvalidRequest, Tls, Unavailable
from cass_client.targets import grpc_target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("trainer:50051", "dns:///trainer:50051"),
        ("[::1]:50051", "dns:///[::1]:50051"),
        ("dns:///trainer:50051", "dns:///trainer:50051"),
        ("unix:/run/cass.sock", "unix:/run/cass.sock"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_targets(target: str, expected: str) -> None:
    assert grpc_target(target) == expected


def test_hosts_of_a_list_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a": ["::1", "10.0.0.1", "10.0.0.9"], "b": ["10.0.0.2"], "six": ["::6"]}

    def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 1, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert grpc_target("a:1,b:2") == "ipv4:10.0.0.1:1,10.0.0.9:1,10.0.0.2:2"
    # Of one family: that of most. A host that is not there now may be later.
    assert grpc_target("six:1,six:2,b:3") == "ipv6:[::6]:1,[::6]:2"
    assert grpc_target("gone:1,b:2") == "ipv4:10.0.0.2:2"
    with pytest.raises(Unavailable) as caught:
        grpc_target("gone:1,lost:2")
    assert str(caught.value) == (
        "gone:1,lost:2: no host has an address: [Errno -2] Name or service not known"
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("a:1,b", "'b' must be HOST:PORT"),
        ("a:1,", "'' must be HOST:PORT"),
        ("local", "must be HOST:PORT, ray:NAME or local:, with a colon, got 'local'"),
    ],
)
def test_refused_when_the_client_is_made(target: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CassClient(target)
    assert str(caught.value) == f"target: {reason}"


def test_hosts_with_tls_share_a_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^tls: needs a server_name that is in"):
        CassClient("a:1,b:2", tls=Tls())
    assert CassClient("a:1,b:2", tls=Tls(server_name="c")).target == "a:1,b:2"
