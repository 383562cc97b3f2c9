"""TLS for the server's port, from files that may be replaced while it serves."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import grpc

from cass_core.errors import CassError
from cass_server.security.reloading_file import ReloadingFiles, read_file

_log = logging.getLogger(__name__)

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


def client_credentials(
    ca: Path | None, certificate: Path | None, key: Path | None
) -> grpc.ChannelCredentials:
    """Credentials of a client, from the PEM files that options of these names give.

    Raises:
        CassError: a file cannot be used, or one of a pair is missing; names its option.
    """
    if (certificate is None) != (key is None):
        raise CassError("--tls-certificate and --tls-key go together")
    roots = pair = None
    if ca is not None:
        roots = _certificates("--tls-ca", ca)
    if certificate is not None and key is not None:
        pair = _pair("--tls-certificate", certificate, "--tls-key", key)
    return grpc.ssl_channel_credentials(roots, *(pair or ()))


def _read(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCertificateConfiguration:
    pair = _pair("tls_certificate", certificate, "tls_key", key)
    roots = None if client_ca is None else _certificates("tls_client_ca", client_ca)
    if reason := _fault(certificate, key):
        extra = {"tls_certificate": str(certificate), "reason": reason}
        _log.warning("clients will refuse the certificate", extra=extra)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _certificates(name: str, path: Path) -> bytes:
    pem = read_file(name, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise CassError(f"{name} {path}: holds no PEM certificates") from None
    return pem


def _pair(name: str, certificate: Path, key_name: str, key: Path) -> tuple[bytes, bytes]:
    """The contents of a key's file and of its certificate's."""
    pair = read_file(key_name, key), _certificates(name, certificate)
    try:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise CassError(
            f"{key_name} {key}: is not the unencrypted PEM key of {name} {certificate}"
            f" ({error.reason})"
        ) from None
    return pair


def _fault(certificate: Path, key: Path) -> str:
    """Why a client that trusts this very certificate refuses it, as for its dates; or empty."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password="")
    client = ssl.create_default_context(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in (*ends, ends[0]):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return ""
