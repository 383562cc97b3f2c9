"""A client's certificates and token, as gRPC takes them; read again when their files change."""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import grpc

from cass_client.config import Settings, Tls, check_token, read_file
from cass_core.errors import InvalidRequest

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Credentials:
    """What the files of a client's settings hold: for a channel with TLS, and for each call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._content = self._read()
        self.channel: grpc.ChannelCredentials | None = None
        if settings.tls is not None:
            ca, certificate, key, _ = self._content
            self.channel = grpc.ssl_channel_credentials(ca, key, certificate)
        token = settings.token
        if settings.token_file is not None:
            token = self._content[3].decode("utf-8-sig", "replace").strip()
            check_token("token_file", token)
        self.metadata: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def are_stale(self) -> bool:
        """Whether a file has changed since; one that cannot be read now has not."""
        with contextlib.suppress(InvalidRequest):
            return self._read() != self._content
        return False

    def _read(self) -> tuple[Any, ...]:
        tls = self._settings.tls or Tls()
        files = {
            "tls.ca": tls.ca,
            "tls.certificate": tls.certificate,
            "tls.key": tls.key,
            "token_file": self._settings.token_file,
        }
        return tuple(
            None if path is None else read_file(name, path) for name, path in files.items()
        )
