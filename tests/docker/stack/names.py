"""A name server that knows one name, as those of container engines know their services."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_ANSWER = 0x8400  # flags: a response, authoritative
_NO_SUCH_NAME = 3
_TYPE_A, _CLASS_IN = 1, 1
_HEADER_BYTES = 12


class NameServer:
    """Answers over UDP until `close`; its name's addresses may be replaced at any time."""

    def __init__(self, name: str, addresses: list[str]) -> None:
        self._name = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(0, _HEADER_BYTES) + 1
        (kind,) = struct.unpack_from("!H", query, end)
        question = query[_HEADER_BYTES : end + 4]
        known = query[_HEADER_BYTES : end - 1].lower() == self._name
        found = self.addresses if known and kind == _TYPE_A else []
        # Names point at the question's; valid for a second.
        records = b"".join(
            struct.pack("!HHHIH", 0xC000 | _HEADER_BYTES, _TYPE_A, _CLASS_IN, 1, 4)
            + socket.inet_aton(address)
            for address in found
        )
        flags = _ANSWER | (0 if known else _NO_SUCH_NAME)
        return query[:2] + struct.pack("!5H", flags, 1, len(found), 0, 0) + question + records

    def close(self) -> None:
        """Stop answering."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def name_server(name: str, addresses: list[str]) -> Iterator[NameServer]:
    """A name server; closed at the end."""
    server = NameServer(name, addresses)
    try:
        yield server
    finally:
        server.close()
