"""Addresses to listen on: a port that worker processes share, or a socket in the file system."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from cass_core.errors import CassError

_UNIX = "unix:"


def is_unix(host: str) -> bool:
    """Whether the host is a socket in the file system, ``unix:PATH``."""
    return host.startswith(_UNIX) and len(host) > len(_UNIX)


def address_of(host: str, port: int) -> str:
    """The address in gRPC's form, to listen on and to connect to.

    Example:
        >>> address_of("::1", 50051), address_of("unix:/run/cass.sock", 50051)
        ('[::1]:50051', 'unix:/run/cass.sock')
    """
    if is_unix(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refuse_taken_socket(host: str) -> None:
    """Rejects a ``unix:`` socket that another process listens on; gRPC would replace it."""
    if not is_unix(host):
        return
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(host.removeprefix(_UNIX))
        raise CassError(f"cannot listen on {host}: another process does already")


def reserve_port(host: str, port: int) -> tuple[contextlib.ExitStack, int]:
    """Reserves a port (0 for a free one), for workers to share by SO_REUSEPORT.

    SO_REUSEPORT alone would let a second server of the same user take its share of the
    connections unseen. ``0.0.0.0`` and ``::`` are both all addresses, as they are to gRPC; a
    ``unix:PATH`` has no port.

    Returns:
        A stack that holds the port until it is closed, and the port.

    Raises:
        CassError: the port is taken or not allowed, or there is no such address.
    """
    held = contextlib.ExitStack()
    if is_unix(host):
        return held, port
    name = None if host in ("0.0.0.0", "::") else host
    holders: list[socket.socket] = []
    absent = OSError()
    try:
        infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in infos:
            try:
                holders.append(held.enter_context(_hold(family, (address[0], port, *address[2:]))))
            except OSError as error:
                # One of a name's addresses may be of a family that this machine does without.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
            else:
                port = holders[-1].getsockname()[1]
        if not holders:
            raise absent
    except OSError as error:
        held.close()
        raise CassError(f"cannot listen on {address_of(host, port)}: {error.strerror}") from error
    return held, port


def _hold(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket bound with SO_REUSEPORT to an address that no other socket is bound to."""
    options: tuple[int, ...] = ()
    try:
        _bind(family, address).close()
    except OSError:
        # Connections of an earlier server in TIME_WAIT, which only SO_REUSEADDR passes by? It is
        # left out where it can be: another supervisor that holds the port would let it pass.
        options = (socket.SO_REUSEADDR,)
        _bind(family, address, *options).close()
    return _bind(family, address, socket.SO_REUSEPORT, *options)


def _bind(family: int, address: tuple[Any, ...], *options: int) -> socket.socket:
    end = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in options:
            end.setsockopt(socket.SOL_SOCKET, option, 1)
        end.bind(address)
    except OSError:
        end.close()
        raise
    return end
