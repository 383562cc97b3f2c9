"""Asks a server on this machine for its health, however it is secured."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_core.errors import CassError
from cass_server.ports import address_of
from cass_server.settings import Settings

# Of all that a certificate may be for, such as a URI, what a server is called by.
_NAMES = ("DNS", "IP Address")


def check(settings: Settings, port: int, seconds: float) -> None:
    """Return if the server serves.

    With TLS, its own certificate is trusted, whoever issued it. With mutual TLS that certificate is
    shown too, so the clients' authority has to accept it.

    Args:
        settings: of the server.
        port: that it listens on.
        seconds: to wait for each of two answers.

    Raises:
        CassError: it does not serve.
    """
    address = address_of(settings.host, port)
    try:
        with _channel(settings, port, seconds) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
    except grpc.RpcError as error:
        raise CassError(f"{address}: {error.code().name}: {error.details()}") from None
    except OSError as error:
        raise CassError(f"{address}: {error}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise CassError(f"{address}: does not serve")


def _channel(settings: Settings, port: int, seconds: float) -> grpc.Channel:
    address = address_of(settings.host, port)
    certificate, key = settings.tls_certificate, settings.tls_key
    # Each check is to see a server that has just begun to answer.
    options = [("grpc.use_local_subchannel_pool", 1)]
    if certificate is None or key is None:
        return grpc.insecure_channel(address, options)
    shown = certificate.read_bytes()
    own = (None, None) if settings.tls_client_ca is None else (key.read_bytes(), shown)
    name = _shown_name(settings.host, port, certificate, seconds)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(shown, *own),
        [*options, ("grpc.ssl_target_name_override", name)],
    )


def _shown_name(host: str, port: int, certificate: Path, seconds: float) -> str:
    """A name or an address that the server's certificate is for."""
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
    names = [entry[1] for entry in shown.get("subjectAltName", ()) if entry[0] in _NAMES]
    if not names:
        raise OSError(f"{certificate} is for no DNS name and no IP address")
    # Any name that the certificate's star stands for will do.
    return str(names[0]).replace("*", "health")
