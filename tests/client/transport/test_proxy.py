"""Servers beside an HTTP proxy of the environment's variables, which gRPC reads by itself."""

from __future__ import annotations

import pytest

from cass_client.transport.proxy import is_loopback, proxy_of
from tests.support.programs import printed
from tests.support.servers import ServerProcess

PROGRAM = """
    import sys
    from cass_client import CassClient, Unavailable
    for target in sys.argv[1:]:
        try:
            with CassClient(target, timeout=60) as client:
                print(client.info().device)
        except Unavailable as error:
            print(error)
"""
ABSENT = "http://127.0.0.1:1"
"""A proxy where nobody listens."""


def test_loopback_and_lists_are_called_directly(server: ServerProcess) -> None:
    address = server.address
    local = f"localhost:{address.partition(':')[2]}"
    # gRPC would ask the proxy for both hosts of a list at once.
    targets = [address, local, f"dns:///{local}", f"ipv4:{address}", f"{address},{address}"]
    targets.append(address.replace("127.0.0.1", "0.0.0.0"))
    env = {"http_proxy": ABSENT, "no_proxy": ""}
    assert printed("-c", PROGRAM, *targets, env=env).split() == ["cpu"] * len(targets)


def test_the_variable_is_named() -> None:
    env = {"https_proxy": ABSENT, "no_proxy": "other.example"}
    said = printed("-c", PROGRAM, "proxied.example:50051", env=env)
    assert said.startswith("proxied.example:50051: ")
    assert said.endswith(
        "; the variable https_proxy sends calls of proxied.example through a proxy: add the host "
        "to no_proxy if it is to be called directly\n"
    )


@pytest.mark.parametrize(
    ("host", "exceptions", "is_proxied"),
    [
        ("a.example", "", True),
        ("a.example", "b.example, 10.0.0.0/8", True),
        ("a.example", "b.example, A.EXAMPLE", False),
        ("a.example", ".example", False),
        ("a.example", "*.example", False),
        ("a.example", "a.example:50051", False),
        ("a.example", "*", False),
        ("a.example", "::1, [::1]:80, :80, **", True),
        ("::2", "::1", True),
        ("fd00::2", "fd00::/8", False),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("11.1.2.3", "10.0.0.0/8", True),
        ("localhost", "", False),
    ],
)
def test_exceptions(
    monkeypatch: pytest.MonkeyPatch, host: str, exceptions: str, is_proxied: bool
) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", ABSENT)
    monkeypatch.setenv("no_proxy", exceptions)
    assert proxy_of([host]) == ("http_proxy" if is_proxied else None)
    assert proxy_of([host, host]) is None


def test_loopback() -> None:
    names = ("localhost", "LOCALHOST.", "a.localhost", "ip6-localhost", "ip6-loopback")
    unspecified = ("0.0.0.0", "::", "::ffff:0.0.0.0")
    assert all(map(is_loopback, (*names, "127.8.0.1", "::1", "::ffff:127.0.0.1", *unspecified)))
    others = ("localhost.example", "128.0.0.1", "::2", "local", "::ffff:128.0.0.1", "0.0.0.1")
    assert not any(map(is_loopback, others))
