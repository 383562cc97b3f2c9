"""TLS for the server's port, from files that may be replaced while it serves."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc

from cass_core.errors import CassError

_log = logging.getLogger(__name__)

_FileState = tuple[int, int, int]
_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]


def server_credentials(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCredentials:
    """Credentials for one call of `add_secure_port`, kept up to date.

    Each new connection looks whether a file has changed and, if so, reads them all. Open
    connections keep what they began with, even those of a client whose authority was withdrawn.
    Files that do not fit together, as between the two halves of a rotation, or cannot be read,
    leave the old ones in use; that is logged once.

    Args:
        certificate: PEM file with the server's certificate, then those that lead to its root.
        key: PEM file with the certificate's private key, not encrypted.
        client_ca: PEM file with the authorities of client certificates. Given, every client must
            have one (mutual TLS); None asks for none.

    Raises:
        CassError: a file cannot be used; names its setting.
    """
    files = _TlsFiles(certificate, key, client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.initial,
        cast(_Fetcher, files.fetch),  # the stubs do not know that it may answer None
        require_client_authentication=client_ca is not None,
    )


class _TlsFiles:
    """Reads the files at the start, and again when they have changed.

    Attributes:
        initial: the files as they were at the start.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        self._complaint = ""
        self._loaded = self._states()
        self.initial = self._read()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What a handshake that begins now should use; None if that has not changed.

        Called by gRPC in threads of its own. An exception would be logged at every handshake.
        """
        with self._lock:
            try:
                states = self._states()
                if states == self._loaded:
                    self._complaint = ""
                    return None
                configuration = self._read()
            except CassError as error:
                # Tried again at every handshake: what made a read fail may pass without a trace
                # in the file's state.
                self._complain(str(error))
                return None
            # Taken before the reading, so that a change in the middle of it is seen next time. A
            # pair that is read torn by this, gRPC refuses, and keeps the old one until then.
            self._loaded = states
            self._complaint = ""
        _log.info("TLS files read again", extra={"tls_certificate": str(self._certificate)})
        return configuration

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            _log.error("TLS files not usable, the old ones stay", extra={"reason": reason})

    def _states(self) -> list[_FileState]:
        states = [
            _file_state("tls_certificate", self._certificate),
            _file_state("tls_key", self._key),
        ]
        if self._client_ca is not None:
            states.append(_file_state("tls_client_ca", self._client_ca))
        return states

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair = (_contents("tls_key", self._key), _contents("tls_certificate", self._certificate))
        roots = None
        _check_certificates("tls_certificate", self._certificate)
        _check_pair(self._certificate, self._key)
        if self._client_ca is not None:
            roots = _contents("tls_client_ca", self._client_ca)
            _check_certificates("tls_client_ca", self._client_ca)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _file_state(setting: str, path: Path) -> _FileState:
    """What differs once a file was written, or a link leads to another file."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(setting, path, error) from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _contents(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(setting, path, error) from None


def _unreadable(setting: str, path: Path, error: OSError) -> CassError:
    return CassError(f"{setting} {path}: cannot be read: {error.strerror}")


def _check_certificates(setting: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise CassError(f"{setting} {path}: holds no PEM certificates") from None
    except OSError as error:
        raise _unreadable(setting, path, error) from None


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise CassError(
            f"tls_key {key}: is not the unencrypted PEM key of tls_certificate {certificate} "
            f"({error.reason})"
        ) from None
    except OSError as error:
        raise _unreadable("tls_key", key, error) from None
