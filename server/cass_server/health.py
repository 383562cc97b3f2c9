"""The `grpc.health.v1` service: whether this process serves, for probes and for watchers."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells one status for the server as a whole and for the services named.

    Unlike grpcio-health-checking's servicer, it ends its watchers' streams when the server ends,
    which a drain would otherwise wait for, and a watcher that does not read holds up nobody.

    Args:
        services: names of the services, beside the empty one.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = ("", *services)
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def set(self, serving: bool) -> None:
        """Change the status, unless the server is ending."""
        if not self._ended:
            self._serving = serving
            self._tell()

    def end(self) -> None:
        """Stop serving for good: watchers are told so, and their streams end."""
        self._serving, self._ended = False, True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(_UNKNOWN)
        return int(_SERVING if self._serving else _NOT_SERVING)

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for another service's."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The status now and after each change; SERVICE_UNKNOWN for another service's."""
        told = -1
        while True:
            changed, ended = self._changed, self._ended
            status = self._status(request.service)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if ended:
                return
            await changed.wait()
