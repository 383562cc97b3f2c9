"""Addresses to listen on: a port that worker processes share, or a socket in the file system."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cass_core.errors import CassError

_UNIX = "unix:"
_LONGEST_PATH = 107  # of a socket, by Linux
_BACKLOG = 1024  # connections that wait to be accepted
_OTHERS_SECONDS = 2.0  # for other workers to bind
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


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


def port_of(address: str) -> int:
    """The port of an address of `address_of`; 0 for a ``unix:PATH``."""
    return 0 if is_unix(address) else int(address.rpartition(":")[2])


def check_address(address: str) -> None:
    """Rejects what is no address of `address_of`: a URL, a host without a port.

    Raises:
        CassError: with the right form.
    """
    found = _HOST_PORT.fullmatch(address)
    if not is_unix(address) and (found is None or not 0 < int(found[1]) < 1 << 16):
        form = "HOST:PORT (as in localhost:50051 or [::1]:50051) or unix:PATH"
        raise CassError(f"must be {form}, got {address!r}")


def check_socket(host: str) -> None:
    """Rejects a ``unix:PATH`` that cannot be listened on.

    Raises:
        CassError: with the reason; another process that listens is one, which gRPC would replace.
    """
    if not is_unix(host):
        return
    path, reason = Path(host.removeprefix(_UNIX)), ""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        reason = f"the path is longer than {_LONGEST_PATH} bytes"
    elif not path.parent.is_dir():
        reason = f"there is no folder {path.parent}"
    elif os.path.lexists(path) and not path.is_socket():
        reason = "a file that is no socket has that name"
    else:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            reason = "another process does already"
    if reason:
        raise CassError(f"cannot listen on {host}: {reason}")


def reserve_port(host: str, port: int) -> tuple[contextlib.ExitStack, int]:
    """Reserves a port (0 for a free one), for workers to share by SO_REUSEPORT.

    SO_REUSEPORT alone would let a second server of the same user take its share of the
    connections unseen. ``::`` is all addresses, IPv4's too, and ``0.0.0.0`` IPv4's alone; a
    ``unix:PATH`` has no port.

    Returns:
        A stack that holds the port until it is closed, and the port.

    Raises:
        CassError: the port is taken or not allowed, or there is no such address.
    """
    held = contextlib.ExitStack()
    if is_unix(host):
        return held, port
    for holder in _bound(host, port, _hold):
        held.enter_context(holder)
        port = holder.getsockname()[1]
    return held, port


def _bound(
    host: str, port: int, bind: Callable[[int, tuple[Any, ...]], socket.socket]
) -> list[socket.socket]:
    """A socket for each address of a host, on one port; raises as `reserve_port`."""
    name = None if host == "::" else host
    absent = OSError()
    with contextlib.ExitStack() as stack:
        made: list[socket.socket] = []
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in infos:
                try:
                    made.append(stack.enter_context(bind(family, (address[0], port, *address[2:]))))
                except OSError as error:
                    # One of a name's addresses may be of a family that this machine does without.
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    absent = error
                else:
                    port = made[-1].getsockname()[1]
            if not made:
                raise absent
        except OSError as error:
            where = address_of(host, port)
            raise CassError(f"cannot listen on {where}: {error.strerror}") from error
        stack.pop_all()
    return made


def listening_sockets(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Sockets that listen on a port (0 for a free one), one for each address of a host.

    With ``shared`` other processes may do so too, as for `reserve_port`, whose addresses they are.

    Raises:
        CassError: as `reserve_port`.
    """
    options = (socket.SO_REUSEADDR, *((socket.SO_REUSEPORT,) if shared else ()))

    def listen(family: int, address: tuple[Any, ...]) -> socket.socket:
        with contextlib.ExitStack() as stack:
            made = stack.enter_context(_bind(family, address, *options))
            made.listen(_BACKLOG)
            stack.pop_all()
        return made

    return _bound(host, port, listen)


@contextlib.contextmanager
def without_ipv6(host: str, port: int) -> Iterator[None]:
    """Within the block gRPC listens on ``0.0.0.0`` alone, if that is the host.

    Where it can, it takes ``::`` for either, with what comes by IPv4 and by IPv6. So that is taken
    meanwhile, by one process at a time: Linux looks for a conflict between sockets of
    SO_REUSEPORT only when the last one that was bound to the port is none of them.
    """
    with contextlib.ExitStack() as stack:
        end = time.monotonic() + _OTHERS_SECONDS
        while host == "0.0.0.0":
            try:
                stack.enter_context(_bind(socket.AF_INET6, ("::", port)))
                break
            except OSError as error:
                # Another worker has it for a moment, or there is no IPv6.
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    break
            time.sleep(0.01)
        yield


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
