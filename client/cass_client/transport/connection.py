"""One process's connection to a server, but for the channel: limits, credentials, addresses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cass.contract import SERVICE, SERVICE_NAME
from cass.v1 import cass_pb2 as pb
from cass_client.config import Settings
from cass_client.discovery.endpoint_file import Addresses
from cass_client.discovery.resolver import Replicas
from cass_client.errors import Unavailable
from cass_client.targets import grpc_target, is_list
from cass_client.transport import fork_safety
from cass_client.transport.channel_options import Options, channel_options
from cass_client.transport.circuit_breaker import CircuitBreaker
from cass_client.transport.credentials import Credentials, Metadata

PREFIX = f"/{SERVICE_NAME}/"
UNARY = tuple(method.name for method in SERVICE.methods if not method.client_streaming)
STREAM = PREFIX + "StreamMasks"


class Address(NamedTuple):
    """What a channel is opened with.

    Attributes:
        target: as gRPC understands it.
        options: of the channel.
        replicas: those of a service on Ray, of which the target is made.
    """

    target: str
    options: Options
    replicas: Addresses = ()


class Connection:
    """A connection without its channel: limits, credentials, circuit breaker.

    Args:
        settings: the client's.

    Attributes:
        target: what the user calls the server.
        timeout: seconds that a call may take.
        process: the process that this belongs to; see `transport.fork_safety.processes`.
        limits: the server's, once they were asked for.
        breaker: decides whether the server is called at all, where there is a fallback.
        local_answers: how many requests were answered by the fallback.
        follows: whether the addresses are those of a service on Ray, which come and go.
    """

    _channel: Any = None
    _address: Address
    _rpcs: dict[str, Callable[..., Any]]
    _metadata: Metadata = ()

    def __init__(self, settings: Settings) -> None:
        self.target = settings.target
        self.timeout = settings.timeout
        self.process = fork_safety.processes
        self.limits: pb.Limits | None = None
        self.breaker = CircuitBreaker()
        self.local_answers = 0
        self.lock = threading.Lock()
        self._settings = settings
        self._credentials: Credentials | None = None
        self._credentials_read = 0.0
        self._opened = 0.0
        service = settings.service
        self._replicas = None if service is None else Replicas(service)
        self.follows = service is not None

    @property
    def credentials(self) -> Credentials:
        """Read at first use."""
        if self._credentials is None:
            self._credentials_read = time.monotonic()
            self._credentials = Credentials(self._settings)
        return self._credentials

    def address(self) -> Address:
        """What a channel is opened with now.

        Raises:
            Unavailable: there is no address, or no way to connect from this process.
        """
        if self.is_cut_off:
            raise Unavailable(f"{self.target}: {fork_safety.REMEDIES}")
        self._opened = time.monotonic()
        options = channel_options(self._settings.server_name)
        if self._replicas is None:
            return Address(grpc_target(self.target), options)
        replicas = self._replicas.addresses()
        return Address(grpc_target(",".join(replicas)), options, replicas)

    def _open_channel(self, api: Any, address: Address, credentials: Credentials) -> Any:
        """A channel, of `grpc` or `grpc.aio`, and its methods: bytes in and out."""
        target, options = address.target, address.options
        if credentials.channel is None:
            channel = api.insecure_channel(target, options)
        else:
            channel = api.secure_channel(target, credentials.channel, options)
        fork_safety.opened(channel)
        self._rpcs = {name: channel.unary_unary(PREFIX + name) for name in UNARY}
        self._metadata, self._address = credentials.metadata, address
        return channel

    def has_moved(self, address: Address) -> bool:
        """Whether a service on Ray has other replicas than those of a channel's address."""
        return self._replicas is not None and self._replicas.differ_from(address.replicas)

    @property
    def is_cut_off(self) -> bool:
        """Whether no call can be made from this process; see `transport.fork_safety`."""
        return fork_safety.is_broken()

    def renew(self, before: float) -> bool:
        """Whether certificates and token are others than those read before this time.

        If their files have changed, the channel is dropped.
        """
        with self.lock:
            if self._credentials is None or self._credentials_read > before:
                return True  # another thread has seen it
            if not self._credentials.are_stale():
                return False
            self._credentials = None
            self._channel = None
            return True

    def drop(self, before: float) -> None:
        """Drops a channel that was opened before this time and then gave no answer.

        To a server that hangs no new one comes about, so that calls go to the others.
        """
        with self.lock:
            if self._opened < before:
                self._channel = None

    def re_resolve(self, before: float) -> None:
        """As `drop`, where the hosts are not gRPC's to look up again and may have moved."""
        if self._replicas is not None:
            self._replicas.look()
        if self._replicas is not None or is_list(self.target):
            self.drop(before)
