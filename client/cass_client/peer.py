"""What one process knows of the server that it asks, whichever way it calls."""

from __future__ import annotations

import threading
import time

from cass.v1 import cass_pb2 as pb
from cass_client import forking
from cass_client.breaker import Breaker
from cass_client.channel_options import Options, channel_options
from cass_client.credentials import Credentials
from cass_client.settings import Settings
from cass_client.targets import grpc_target, is_list

SERVICE = pb.DESCRIPTOR.services_by_name["CassService"]
UNARY = tuple(method.name for method in SERVICE.methods if not method.client_streaming)
STREAM = f"/{SERVICE.full_name}/StreamMasks"


class PeerBase:
    """The part of a connection that is no connection: limits, credentials, breaker.

    Args:
        settings: the client's.

    Attributes:
        target: what the user calls the server.
        timeout: seconds that a call may take.
        process: the process that this belongs to; see `cass_client.forking.processes`.
        limits: the server's, once they were asked for.
        breaker: whether the server is asked at all, if there is a fallback.
        local_answers: how many requests were answered by the fallback.
    """

    def __init__(self, settings: Settings) -> None:
        self.target = settings.target
        self.timeout = settings.timeout
        self.process = forking.processes
        self.limits: pb.Limits | None = None
        self.breaker = Breaker()
        self.local_answers = 0
        self.lock = threading.Lock()
        self._settings = settings
        self._credentials: Credentials | None = None
        self._credentials_read = 0.0
        self._opened = 0.0

    @property
    def credentials(self) -> Credentials:
        """Read at first use."""
        if self._credentials is None:
            self._credentials_read = time.monotonic()
            self._credentials = Credentials(self._settings)
        return self._credentials

    def address(self) -> tuple[str, Options]:
        """The target and the options of a channel that is opened now."""
        self._opened = time.monotonic()
        return grpc_target(self.target), channel_options(self._settings.server_name)

    @property
    def is_cut_off(self) -> bool:
        """Whether no call can be made from this process; see `cass_client.forking`."""
        return forking.is_broken()

    def renew(self, before: float) -> bool:
        """Whether certificates and token are others than those read before this time.

        If their files have changed, the connection is let go of.
        """
        with self.lock:
            if self._credentials is None or self._credentials_read > before:
                return True  # another thread has seen it
            if not self._credentials.are_stale():
                return False
            self._credentials = None
            self._let_go()
            return True

    def leave(self, before: float) -> None:
        """Let go of a connection that was opened before this time and then gave no answer.

        To a server that hangs no new one comes about, so that calls go to the others.
        """
        with self.lock:
            if self._opened < before:
                self._let_go()

    def look_up_again(self, before: float) -> None:
        """As `leave`, where the hosts are not gRPC's to look up again and may have moved."""
        if is_list(self.target):
            self.leave(before)

    def _let_go(self) -> None:
        """Forget the channel, which calls under way still use."""
        raise NotImplementedError
