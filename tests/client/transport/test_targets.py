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
        "gone:1,lost:2: no host has an address ([Errno -2] Name or service not known): see whether "
        "the names are right"
    )


FORMS = "must be HOST:PORT, ray:NAME or local:"
PORTS = ("", "0", "65536", "99999", "-1", "five", "\u00b2")
NO_HOSTS = ("a..b", ".a", "256.0.0.1", "0x7f000001", "a.0X1", "a/b", "[h]", "[::1", "-a", "\u00fc")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", f"{FORMS}, got ''"),
        ("local:x", f"{FORMS}, got 'local:x'; write 'local:'"),
        ("UNIX:/x", "must have 'UNIX:' in lower case; write 'unix:/x'"),
        ("Ray:cass", "must have 'Ray:' in lower case; write 'ray:cass'"),
        ("DNS:///me:secret@h:1", "must have 'DNS:' in lower case"),
        *(
            (target, "must be HOST:PORT, without what is before the @; write 'host:50051'")
            for target in ("me:secret@host:50051", "me@host", "a:1,b:s,ecr et@host:50051")
        ),
        ("me:secret@ho st:1", "must be HOST:PORT, without what is before the @"),
        ("http://me:sec/ret@h:80", "must be HOST:PORT, not a URL"),
        ("passthrough:///h:1", "must be HOST:PORT, not a URL; write 'h:1'"),
        ("file:///tmp/x y", "must be HOST:PORT, not a URL"),
        *(
            (target, f"must be HOST:PORT: '{target}' is several without commas; write 'a:1,b:2'")
            for target in ("a:1;b:2", "a:1 b:2", "a:1; b:2")
        ),
        *(
            (target, f"must be HOST:PORT: '{target}' has more than one colon")
            for target in ("h:50051:50051", "a:1:2")
        ),
        ("/tmp/sock", "must be HOST:PORT: '/tmp/sock' has no port; write 'unix:/tmp/sock'"),
        ("a/b", "must be HOST:PORT: 'a/b' has no port; write 'unix:a/b'"),
        ("h/", "must be HOST:PORT: 'h/' has no port; write 'h:50051'"),
        ("a b", "must be HOST:PORT: 'a b' has blanks"),
        (7, f"{FORMS}, got 7"),
        ("  ", f"{FORMS}, got '  '"),
        ("local", f"{FORMS}, got 'local'; write 'local:'"),
        ("LOCAL:", f"{FORMS}, got 'LOCAL:'; write 'local:'"),
        ("http://localhost:50051", "must be HOST:PORT, not a URL; write 'localhost:50051'"),
        ("http://me:secret@h:80/x?y", "must be HOST:PORT, not a URL; write 'h:80'"),
        (
            "https://cass.example/masks",
            "must be HOST:PORT, not a URL; write 'cass.example:50051' with tls=Tls()",
        ),
        ("a:1,grpc://[::1]:2", "must be HOST:PORT, not a URL; write '[::1]:2'"),
        ("localhost", "must be HOST:PORT: 'localhost' has no port; write 'localhost:50051'"),
        ("a:1,b", "must be HOST:PORT: 'b' has no port; write 'b:50051'"),
        ("dns:///b", "must be HOST:PORT: 'b' has no port; write 'b:50051'"),
        ("ipv4:10.0.0.1", "must be HOST:PORT: '10.0.0.1' has no port; write '10.0.0.1:50051'"),
        ("[::1]", "must be HOST:PORT: '[::1]' has no port; write '[::1]:50051'"),
        ("50051", "must be HOST:PORT: '50051' has no host; write 'localhost:50051'"),
        (":50051", "must be HOST:PORT: ':50051' has no host; write 'localhost:50051'"),
        ("h:80/", "must be HOST:PORT: 'h:80/' has no port from 1 to 65535; write 'h:80'"),
        ("a:1,", "must be HOST:PORT: '' is empty"),
        (" h:1", "must be HOST:PORT: ' h:1' has blanks; write 'h:1'"),
        ("a:1,b 2:3", "must be HOST:PORT: 'b 2:3' has blanks; write 'b2:3'"),
        ("ipv4:h:1", "must have addresses of ipv4, got 'ipv4:h:1'"),
        ("unix://rel/s", "must have no host, got 'unix://rel/s'; write 'unix:rel/s'"),
        (
            "unix-abstract://s",
            "must have no host, got 'unix-abstract://s'; write 'unix-abstract:s'",
        ),
        ("vsock:x", "must be vsock:CID:PORT, got 'vsock:x'"),
        (
            "xds:///masks",
            "needs GRPC_XDS_BOOTSTRAP or GRPC_XDS_BOOTSTRAP_CONFIG, got 'xds:///masks'",
        ),
        ("unix:", "must have a path of 1 to 107 bytes, got 'unix:'"),
        *(
            (
                f"h:{port}",
                f"must be HOST:PORT: 'h:{port}' has no port from 1 to 65535; write 'h:50051'",
            )
            for port in PORTS
        ),
        *(
            (
                target,
                f"must be HOST:PORT: '{target}' is an IPv6 address without brackets; "
                f"write '{form}'",
            )
            for target, form in (("::1", "[::1]:50051"), ("fe80::1:50051", "[fe80::1]:50051"))
        ),
        *(
            (f"{host}:1", f"must be HOST:PORT: '{host}:1' has no name or address of a host")
            for host in NO_HOSTS
        ),
    ],
)
def test_refused_when_the_client_is_made(
    monkeypatch: pytest.MonkeyPatch, target: Any, reason: str
) -> None:
    """With a fallback too, which would hide the mistake for ever."""
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP", raising=False)
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP_CONFIG", raising=False)
    options: dict[str, Any]
    for options in ({}, {"fallback": "local"}):
        with pytest.raises(InvalidRequest) as caught:
            CassClient(target, **options)
        assert str(caught.value) == f"target: {reason}"


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1", "my_service:50051", "a.example.:1", "0xbeer:1", "dns://10.0.0.1/h:1",
        "xds:///masks", "unix:///run/s", "unix:s", "unix-abstract:s", "vsock:2:50051",
    ],
)  # fmt: skip
def test_accepted(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", "bootstrap.json")
    assert CassClient(target).target == target


def test_hosts_with_tls_share_a_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^tls: needs a server_name that is in"):
        CassClient("a:1,b:2", tls=Tls())
    assert CassClient("a:1,b:2", tls=Tls(server_name="c")).target == "a:1,b:2"
