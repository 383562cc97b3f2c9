"""Files of certificates and keys, for a server and its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cass_client import Tls
from tests.server.support.certificates import Authority, put


class Files:
    """Files that an authority has signed, whose certificate is in `ca`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority, self._stranger = Authority(), Authority("A stranger")
        self.ca = put(folder / "ca.pem", self._authority.certificate)
        self.other_ca = put(folder / "other.pem", self._stranger.certificate)
        self.issue("server", "127.0.0.1")
        self.issue("client", "loader")

    def issue(self, name: str, host: str, *, strange: bool = False, **options: Any) -> None:
        """Put a new pair where the old one is, perhaps of another authority."""
        pair = (self._stranger if strange else self._authority).issue(host, **options)
        put(self.folder / f"{name}.pem", pair.certificate)
        put(self.folder / f"{name}.key", pair.key)

    def pair(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def tls(self, name: str = "client") -> Tls:
        """A client's, with this pair."""
        return Tls(self.ca, *self.pair(name))

    def server_arguments(self, *more: object, name: str = "server") -> list[str]:
        """The server's, with this pair."""
        certificate, key = self.pair(name)
        return list(map(str, ("--tls-certificate", certificate, "--tls-key", key, *more)))
