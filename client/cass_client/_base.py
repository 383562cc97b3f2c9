"""What both clients share: settings, a connection for each process, the effects of each call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from cass.features import FEATURES
from cass.v1 import cass_pb2 as pb
from cass_client.arguments import Masks
from cass_client.calls.fallback import with_fallback
from cass_client.calls.streaming import Streaming
from cass_client.calls.unary import request_info, request_losses, request_masks, request_profile
from cass_client.config import Settings, Tls
from cass_client.discovery.watcher import watch
from cass_client.errors import ServerError
from cass_client.transport import fork_safety
from cass_client.transport.connection import Connection
from cass_client.transport.effects import Compute, Effects
from cass_client.transport.profile import CallProfile
from cass_core import __version__
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss

P = TypeVar("P", bound=Connection)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Facts about a server.

    Attributes:
        version: as in ``0.1.0``.
        device: where it computes: ``cpu`` or ``cuda:N``.
        limits: the largest request it takes, by name; empty for ``local:``, which has none.
        features: what it knows beyond the contract's first version, such as ``level_ranges``.
    """

    version: str
    device: str
    limits: dict[str, int]
    features: tuple[str, ...]


class BaseClient(Generic[P]):
    """Frozen settings, and a connection that is made anew in each process.

    Its arguments are those of `cass_client.CassClient`.
    """

    _make_connection: Callable[[Settings], P]
    _settings: Settings
    _is_local: bool
    _falls_back: bool
    # By how many forks away the process is: a child leaves its parent's as it is.
    _connections: dict[int, P]

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 30.0,
        tls: Tls | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        fallback: Literal["local"] | None = None,
    ) -> None:
        settings = Settings(target, timeout, tls, token, token_file, fallback)
        self.__setstate__(settings)

    @property
    def target(self) -> str:
        """What the client was made for."""
        return self._settings.target

    @property
    def local_answers(self) -> int:
        """How many requests of this process were answered by the fallback."""
        return self._connection().local_answers

    def _connection(self) -> P:
        """The connection of this process."""
        connection = self._connections.get(fork_safety.processes)
        if connection is None:
            # Of two threads' the first one stays; neither is open yet.
            made = type(self)._make_connection(self._settings)
            connection = self._connections.setdefault(fork_safety.processes, made)
        return connection

    def _mask_effects(self, inputs: MaskInputs, error: ServerError | None = None) -> Effects[Masks]:
        """The effects of a call, which has failed already if there is an error."""

        def request(connection: P, inputs: MaskInputs) -> Effects[Masks]:
            if error is not None:
                raise error
            return (yield from request_masks(connection, inputs))

        return self._effects(request, inputs, compute_masks)

    def _loss_effects(self, inputs: LossInputs) -> Effects[HostLoss]:
        return self._effects(request_losses, inputs, compute_losses)

    def _stream_effects(self, in_flight: int) -> Effects[None]:
        connection = None if self._is_local else self._connection()
        return Streaming(connection, in_flight, self._mask_effects).effects()

    def _info_effects(self) -> Effects[ServerInfo]:
        if self._is_local:
            return ServerInfo(__version__, "cpu", {}, FEATURES)
        return _server_info((yield from request_info(self._connection())))

    def _profile_effects(self, check: Callable[[], MaskInputs]) -> Effects[CallProfile]:
        if not self._is_local:
            return (yield from request_profile(self._connection(), check))
        started = time.perf_counter()
        inputs = check()
        checked = time.perf_counter()
        yield Compute(lambda: compute_masks(inputs))
        done = time.perf_counter()
        return CallProfile(done - started, pack=checked - started, compute=done - checked)

    def _effects(
        self, ask: Callable[[P, Any], Effects[T]], inputs: Any, compute: Callable[[Any], T]
    ) -> Effects[T]:
        if self._is_local:
            return _compute_locally(compute, inputs)
        connection = self._connection()
        if not self._falls_back:
            return ask(connection, inputs)
        return with_fallback(connection, ask(connection, inputs), lambda: compute(inputs))

    def __getstate__(self) -> Settings:
        return self._settings

    def __setstate__(self, settings: Settings) -> None:
        self._settings, self._connections = settings, {}
        self._is_local, self._falls_back = settings.is_local, settings.fallback is not None
        if settings.service is not None:
            watch(settings.service)  # from now on, as workers may be started before the first call

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"


def _compute_locally(compute: Callable[[Any], T], inputs: Any) -> Effects[T]:
    answer: T = yield Compute(lambda: compute(inputs))
    return answer


def _server_info(answer: pb.GetServerInfoResponse) -> ServerInfo:
    limits = {
        field.name: getattr(answer.limits, field.name)
        for field in answer.limits.DESCRIPTOR.fields
        if answer.HasField("limits")
    }
    return ServerInfo(answer.version, answer.device, limits, tuple(answer.features))
