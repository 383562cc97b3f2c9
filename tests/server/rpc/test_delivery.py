"""What has not arrived at a peer, by the peer's name."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from cass_server.rpc.delivery import _peer, unread_bytes
from tests.server.support.processes import LIMIT, wait_until


@contextlib.contextmanager
def connected(host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: of the peer, and the one that has accepted it."""
    dual = host == "::ffff:127.0.0.1"  # as gRPC listens on all addresses
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server(
            ("::" if dual else host, 0), family=family, dualstack_ipv6=dual
        ) as listener,
        socket.create_connection(
            (host.removeprefix("::ffff:"), listener.getsockname()[1]), timeout=LIMIT
        ) as peer,
        listener.accept()[0] as accepted,
    ):
        yield peer, accepted


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_bytes_that_a_peer_does_not_read(host: str) -> None:
    with connected(host) as (peer, accepted):
        name, port = peer.getsockname()[:2], accepted.getsockname()[1]
        # The other end is of a port that nobody asks for.
        assert unread_bytes(port) == {name: 0}
        accepted.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.send(bytes(1 << 20))
        assert unread_bytes(port)[name] > 0
        peer.setblocking(False)

        def has_arrived() -> bool:
            with contextlib.suppress(BlockingIOError):
                while peer.recv(1 << 20):
                    pass
            return unread_bytes(port)[name] == 0

        wait_until(has_arrived)
        # The sockets are still their owners'.
        accepted.send(b"more")
        peer.setblocking(True)
        assert peer.recv(4) == b"more"


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ipv4:192.0.2.1:1234", ("192.0.2.1", 1234)),
        ("ipv6:%5B::1%5D:50051", ("::1", 50051)),
        ("ipv6:%5B::ffff:192.0.2.1%5D:1", ("192.0.2.1", 1)),
        ("unix:", ("unix:", 0)),
    ],
)
def test_names_of_grpc(name: str, peer: tuple[str, int]) -> None:
    assert _peer(name) == peer
