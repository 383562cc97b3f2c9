"""TLS for the server's port, from files that may be replaced while it serves."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc

from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.security.reloading_file import ReloadingFiles, read_file, warn_if_exposed

_log = logging.getLogger(__name__)

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for.
_NO_CHECK_TIME = 0x200000

_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]


class TlsFiles:
    """A server's PEM files, kept up to date.

    With ``client_ca`` every client must have a certificate (mutual TLS).

    Attributes:
        files: to be read again, by each new connection and by a `FileWatch`.

    Raises:
        CassError: a file cannot be used; names its setting.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        paths = {"tls_certificate": certificate, "tls_key": key}
        if client_ca is not None:
            paths["tls_client_ca"] = client_ca
        self._is_mutual = client_ca is not None
        self.files = ReloadingFiles("TLS files", paths, partial(_read, certificate, key, client_ca))

    @property
    def expiries(self) -> Mapping[str, float]:
        """When certificates end, by their settings, as seconds since 1970."""
        return self.files.content.expiries

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one call of `add_secure_port`.

        Open connections keep what they began with, even those of a client whose authority was
        withdrawn.
        """
        given = self.files.content.configuration

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """For a handshake that begins now; None if nothing has changed.

            A pair that is read torn by a change, gRPC refuses, and keeps the old one.
            """
            nonlocal given
            self.files.reload()
            if given is self.files.content.configuration:
                return None
            given = self.files.content.configuration
            return given

        return grpc.dynamic_ssl_server_credentials(
            given,
            cast(_Fetcher, fetch),  # the stubs do not know that it may return None
            require_client_authentication=self._is_mutual,
        )


def metrics_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS for the metrics, if that is set; see `http_context`."""
    return http_context(settings, "the metrics") if settings.metrics_tls else None


def http_context(settings: Settings, what: str) -> ssl.SSLContext | None:
    """TLS for what is served over HTTP, from the server's files, kept up to date likewise.

    With ``tls_client_ca`` those who ask must have a certificate, too. None without files.

    Raises:
        CassError: a file cannot be used.
    """
    certificate, key, ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = {"tls_certificate": certificate, "tls_key": key}
    if ca is not None:
        paths["tls_client_ca"] = ca

    def read() -> ssl.SSLContext:
        _pair("tls_certificate", certificate, "tls_key", key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if ca is not None:
            _certificates("tls_client_ca", ca)
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    files = ReloadingFiles(f"TLS files of {what}", paths, read)

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
        """For a handshake that begins now."""
        files.reload()
        connection.context = files.content

    context = files.content
    context.sni_callback = renew
    return context


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


class _Content(NamedTuple):
    configuration: grpc.ServerCertificateConfiguration
    expiries: Mapping[str, float]


def _read(certificate: Path, key: Path, client_ca: Path | None) -> _Content:
    pair = _pair("tls_certificate", certificate, "tls_key", key)
    warn_if_exposed("tls_key", key)
    reason, expires = _judge(certificate, key)
    if reason:
        extra = {"tls_certificate": str(certificate), "reason": reason}
        _log.warning("clients will refuse the certificate", extra=extra)
    expiries = {"tls_certificate": expires} if expires else {}
    roots = None
    if client_ca is not None:
        roots = _certificates("tls_client_ca", client_ca)
        ends = [_seconds(authority, "notAfter") for authority in _authorities(client_ca)]
        if ends:
            expiries["tls_client_ca"] = min(ends)
    configuration = grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
    return _Content(configuration, expiries)


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


def _judge(certificate: Path, key: Path) -> tuple[str, float]:
    """Why a client that trusts this very certificate refuses it, or empty; and when it ends.

    Its end, which time brings, is no reason; of one that is refused it is 0.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password="")
    client = ssl.create_default_context(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in (*ends, *ends, ends[0]):  # TLS 1.3 needs three steps, TLS 1.2 five
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message, 0.0
        except ssl.SSLError as error:  # as of a key of a kind that few know
            return str(error.reason), 0.0
    shown = ends[0].getpeercert() or {}
    is_early = _seconds(shown, "notBefore") > time.time()
    return "certificate is not yet valid" if is_early else "", _seconds(shown, "notAfter")


def _authorities(path: Path) -> list[dict[str, Any]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(path)
    return context.get_ca_certs()


def _seconds(certificate: Mapping[str, Any], date: str) -> float:
    return float(ssl.cert_time_to_seconds(certificate[date]))
