"""One process's connection to a server: its channel, limits, credentials and addresses."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple, TypeAlias

from cass.contract import SERVICE, SERVICE_NAME
from cass.v1 import cass_pb2 as pb
from cass_client.config import Settings
from cass_client.discovery.endpoint_file import Addresses
from cass_client.discovery.resolver import Replicas
from cass_client.errors import Unavailable
from cass_client.targets import endpoints_of, grpc_target, is_list
from cass_client.transport import fork_safety
from cass_client.transport.channel_options import channel_options
from cass_client.transport.circuit_breaker import CircuitBreaker
from cass_client.transport.credentials import Credentials, Metadata
from cass_client.transport.diagnosis import explain
from cass_client.transport.proxy import proxy_of

_PREFIX = f"/{SERVICE_NAME}/"
_STREAMING = "StreamMasks"
# The oldest protobuf does not tell which methods stream.
_UNARY = tuple(method.name for method in SERVICE.methods if method.name != _STREAMING)
STREAM = _PREFIX + _STREAMING


Target: TypeAlias = tuple[str, Addresses, Credentials]


class Channel(NamedTuple):
    """An open channel of `grpc` or `grpc.aio`, and what belongs to it."""

    raw: Any
    # The unary methods by name, bytes in and out: the generated stub copies tensors through
    # protobuf.
    rpcs: dict[str, Any]
    metadata: Metadata
    replicas: Addresses


class Connection:
    """Opened by the first call, and again by the next one after it was closed or dropped."""

    _channel: Channel | None = None
    _for_loops = False

    def __init__(self, settings: Settings) -> None:
        self.target = settings.target
        self.timeout = settings.timeout
        self.limits: pb.Limits | None = None  # the server's, once requested
        self.features: frozenset[str] | None = None  # likewise
        self.breaker = CircuitBreaker()  # of calls with a fallback
        self.local_answers = 0
        self.lock = threading.Lock()  # for replacing the channel
        self._settings = settings
        self._credentials: Credentials | None = None
        self._credentials_read = 0.0
        self._opened = 0.0
        service = settings.service
        self._replicas = None if service is None else Replicas(service)

    @property
    def is_open(self) -> bool:
        """Whether there is a channel, to the replicas that are known now."""
        channel, replicas = self._channel, self._replicas
        return channel is not None and not (replicas and replicas.differ_from(channel.replicas))

    def _target(self) -> Target:
        """What a channel is opened with now; reads files, and may resolve hosts."""
        if fork_safety.is_broken(self._for_loops):
            raise Unavailable(f"{self.target}: {fork_safety.REMEDIES}")
        self._opened = time.monotonic()
        replicas = () if self._replicas is None else self._replicas.addresses()
        target = grpc_target(",".join(replicas) or self.target)
        if self._credentials is None:
            self._credentials_read = time.monotonic()
            self._credentials = Credentials(self._settings)
        return target, replicas, self._credentials

    def _open(self, api: Any, target: Target) -> Channel:
        """A channel of `grpc` or `grpc.aio`."""
        address, replicas, credentials = target
        hosts = [] if replicas else [host for host, _ in endpoints_of(self.target)]
        # What only gRPC understands is left to it.
        through_proxy = not replicas and (not hosts or proxy_of(hosts) is not None)
        options = channel_options(self._settings.server_name, through_proxy)
        if credentials.channel is None:
            channel = api.insecure_channel(address, options)
        else:
            channel = api.secure_channel(address, credentials.channel, options)
        fork_safety.opened(channel)
        rpcs = {name: channel.unary_unary(_PREFIX + name) for name in _UNARY}
        return Channel(channel, rpcs, credentials.metadata, replicas)

    def explain(self, error: Unavailable, seconds: float) -> Unavailable:
        """The error with what the server's addresses answer, and what helps."""
        replicas = () if self._replicas is None else self._replicas.known() or ()
        if self._replicas is not None and not replicas:
            return error
        details = str(error).removeprefix(f"{self.target}: ")
        text = explain(self._settings, replicas, details, seconds)
        return Unavailable(f"{self.target}: {text}")

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
