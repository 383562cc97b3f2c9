"""Asks a server on this machine for its health, however it is secured."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_core.errors import CassError
from cass_server.config.address import address_of
from cass_server.config.settings import Settings
from cass_server.security.shown_name import shown_name


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
    name = shown_name(settings.host, port, certificate, seconds)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(shown, *own),
        [*options, ("grpc.ssl_target_name_override", name)],
    )
