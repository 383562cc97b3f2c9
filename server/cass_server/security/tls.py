"""TLS for the server's port, from files that may be replaced while it serves."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import grpc

from cass_core.errors import CassError
from cass_server.security.reloading_file import ReloadingFiles, read_file, unreadable

_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]


def server_credentials(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCredentials:
    """Credentials for one call of `add_secure_port`, from PEM files, kept up to date.

    Each new connection reads all files again if one has changed (`ReloadingFiles`). Open
    connections keep what they began with, even those of a client whose authority was withdrawn.
    With ``client_ca`` every client must have a certificate (mutual TLS).

    Raises:
        CassError: a file cannot be used; names its setting.
    """
    files = {"tls_certificate": certificate, "tls_key": key}
    if client_ca is not None:
        files["tls_client_ca"] = client_ca
    loaded = ReloadingFiles("TLS files", files, partial(_read, certificate, key, client_ca))

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """For a handshake that begins now; None if nothing has changed.

        A pair that is read torn by a change, gRPC refuses, and keeps the old one.
        """
        return loaded.content if loaded.reload() else None

    return grpc.dynamic_ssl_server_credentials(
        loaded.content,
        cast(_Fetcher, fetch),  # the stubs do not know that it may return None
        require_client_authentication=client_ca is not None,
    )


def _read(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCertificateConfiguration:
    pair = (read_file("tls_key", key), read_file("tls_certificate", certificate))
    _check_certificates("tls_certificate", certificate)
    _check_pair(certificate, key)
    roots = None
    if client_ca is not None:
        roots = read_file("tls_client_ca", client_ca)
        _check_certificates("tls_client_ca", client_ca)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _check_certificates(setting: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise CassError(f"{setting} {path}: holds no PEM certificates") from None
    except OSError as error:
        raise unreadable(setting, path, error) from None


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
        raise unreadable("tls_key", key, error) from None
