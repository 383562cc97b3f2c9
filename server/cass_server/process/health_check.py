"""A health check of a server as probes send it, also over TLS."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_core.errors import CassError
from cass_server.config.address import address_of
from cass_server.config.settings import Settings, is_loopback

SERVING = "SERVING"

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# Of all that a certificate may be for, such as a URI, what a server is called by.
_NAME_KINDS = ("DNS", "IP Address")


def check(
    address: str,
    seconds: float,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    *,
    is_local: bool = False,
) -> str:
    """The status of a server, by the names of ``grpc.health.v1``.

    Without credentials the connection is plain text. The server's certificate has the name, if not
    the address's. No proxy is used for loopback addresses and others that are of this machine.

    Raises:
        CassError: there is no answer; has the name of the gRPC status code.
    """
    # A new connection for each check: one in back-off would miss a server that has just started.
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
    if is_local or is_loopback(address.rpartition(":")[0].strip("[]")):
        options.append(("grpc.enable_http_proxy", 0))
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if credentials is None:
        connected = grpc.insecure_channel(address, options)
    else:
        connected = grpc.secure_channel(address, credentials, options)
    with connected as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError as error:
            advice = _advice(str(error.details()), credentials is not None)
            reason = f"{error.code().name}: {error.details()}{advice}"
            raise CassError(f"{address}: {reason}") from error
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _advice(details: str, is_secure: bool) -> str:
    """What to do about a connection that failed for want of the right TLS options."""
    if "WRONG_VERSION_NUMBER" in details:
        return " (the server takes plain text: leave out the TLS options)"
    if "Hostname Verification" in details:
        return " (its certificate is for another name: --tls-server-name)"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return " (its certificate is not to be trusted, by --tls-ca or its dates)"
    if "Socket closed" in details and is_secure:
        return " (does it require a client certificate of its authority? --tls-certificate)"
    if "Socket closed" in details:
        return " (does it require TLS? --tls-ca)"
    return ""


def check_local(settings: Settings, port: int, seconds: float) -> str:
    """`check` a server on this machine by its own settings.

    With TLS, the server's own certificate is trusted, without a CA. With mutual TLS it is also the
    client certificate, so the CA of the clients has to accept it. Each of two answers has the time.

    Raises:
        CassError: there is no answer.
    """
    host = _LOOPBACK.get(settings.host, settings.host)
    address, certificate = address_of(host, port), settings.tls_certificate
    if certificate is None or settings.tls_key is None:
        return check(address, seconds, is_local=True)
    try:
        pem = certificate.read_bytes()
        key = None if settings.tls_client_ca is None else settings.tls_key.read_bytes()
        name = _certified_name(host, port, certificate, seconds)
    except OSError as error:
        raise CassError(f"{address}: {error}") from error
    credentials = grpc.ssl_channel_credentials(pem, key, None if key is None else pem)
    return check(address, seconds, credentials, name, is_local=True)


def _certified_name(host: str, port: int, certificate: Path, seconds: float) -> str:
    """A name or an address that the certificate of a server is for.

    Raises `OSError` if the server does not answer, shows another one, or it is for no name.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    # The certificate is its own anchor, as it is for gRPC.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        context.wrap_socket(plain) as secured,
    ):
        shown = secured.getpeercert() or {}
    names = [entry[1] for entry in shown.get("subjectAltName", ()) if entry[0] in _NAME_KINDS]
    if not names:
        raise OSError(f"{certificate} is for no DNS name and no IP address")
    # Any name that the certificate's wildcard matches will do.
    return str(names[0]).replace("*", "health")
