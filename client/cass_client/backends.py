"""What answers a client's checked requests: a server, or the core in this process."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cass import wire
from cass.frames import loss_request
from cass.lift import Views, lift
from cass.v1 import cass_pb2 as pb
from cass_client.channel_options import channel_options
from cass_client.errors import ServerError, from_rpc_error
from cass_core import __version__
from cass_core.arrays import Array
from cass_core.errors import CassError
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss, compute_losses
from cass_core.masks import MaskInputs, compute_masks

M = TypeVar("M", bound=Message)

_SERVICE = pb.DESCRIPTOR.services_by_name["CassService"]


class Backend(Protocol):
    """Answers checked requests with host arrays."""

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """Masks and owner maps (none unless asked for), one of each a feature map."""

    def losses(self, inputs: LossInputs) -> HostLoss:
        """Loss, sum, normaliser and gradient."""

    def info(self) -> pb.GetServerInfoResponse:
        """Version, device and limits of whoever answers."""

    def close(self) -> None:
        """Let go of connections; a later call opens them again."""


class LocalBackend:
    """`cass_core` in this process.

    Raises:
        CassError: the core's dependencies are not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("numba") is None:
            raise CassError('local: needs the core; install it with: pip install "cass[core]"')

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """See `Backend`."""
        return compute_masks(inputs)

    def losses(self, inputs: LossInputs) -> HostLoss:
        """See `Backend`."""
        return compute_losses(inputs)

    def info(self) -> pb.GetServerInfoResponse:
        """See `Backend`."""
        return pb.GetServerInfoResponse(version=__version__, device="cpu")

    def close(self) -> None:
        """See `Backend`."""


class RemoteBackend:
    """A CASS server. The channel is opened by the first call of each process.

    Args:
        target: gRPC target, as in ``localhost:50051``.
        timeout: deadline of a call in seconds.
    """

    def __init__(self, target: str, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._rpcs: dict[str, Callable[..., bytes]] = {}
        self._pid = 0

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """See `Backend`."""
        request = wire.mask_request(inputs).SerializeToString()
        answer, views = self._call("GenerateMask", request, pb.GenerateMaskResponse)
        return wire.masks_and_owners(answer, views)

    def losses(self, inputs: LossInputs) -> HostLoss:
        """See `Backend`."""
        answer, views = self._call("ComputeLoss", loss_request(inputs), pb.ComputeLossResponse)
        return wire.loss_result(answer, views)

    def info(self) -> pb.GetServerInfoResponse:
        """See `Backend`."""
        request = pb.GetServerInfoRequest().SerializeToString()
        return self._call("GetServerInfo", request, pb.GetServerInfoResponse)[0]

    def close(self) -> None:
        """See `Backend`."""
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None and self._pid == os.getpid():
                channel.close()

    def _call(self, method: str, request: bytes, kind: type[M]) -> tuple[M, Views]:
        """The answer to a serialized request, its tensors apart.

        Not by the generated stub, which copies tensors through protobuf.
        """
        rpc = self._connected()[method]
        try:
            return lift(rpc(request, timeout=self._timeout), kind)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from error
        except DecodeError as error:
            name = kind.DESCRIPTOR.full_name
            raise ServerError(f"{self._target}: the answer is not a {name}") from error

    def _connected(self) -> dict[str, Callable[..., bytes]]:
        """The methods of this process's channel, by name; bytes in and out."""
        with self._lock:
            # A forked child must not touch its parent's channel.
            if self._channel is None or self._pid != os.getpid():
                self._channel = grpc.insecure_channel(self._target, options=channel_options())
                self._rpcs = {
                    method.name: self._channel.unary_unary(f"/{_SERVICE.full_name}/{method.name}")
                    for method in _SERVICE.methods
                    if not method.client_streaming
                }
                self._pid = os.getpid()
            return self._rpcs

    def __reduce__(self) -> tuple[type[RemoteBackend], tuple[str, float]]:
        return type(self), (self._target, self._timeout)
