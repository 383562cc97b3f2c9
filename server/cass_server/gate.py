"""What every call passes before its message is read: is there such a method, may the caller?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import grpc

from cass_server.metrics import Metrics
from cass_server.timings import asks

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Without a call for so long, callers have gone elsewhere or wait before they try again.
_QUIET_SECONDS = 0.05


class Caller(Protocol):
    """Who decides about callers, such as a `cass_server.tokens.TokenFile`."""

    def allows(self, metadata: Any) -> bool:
        """Whether a call with this metadata is let in."""


class Gate(grpc.GenericRpcHandler):
    """Finds the handler of a call, and turns away who has no right to it.

    Generated ``add_…_to_server`` functions take it for a server: what is added to it is behind it.

    Args:
        caller: who is let in; None for everybody.
        metrics: counts who is not.
        open_services: names of services that ask nobody.
    """

    def __init__(
        self, caller: Caller | None, metrics: Metrics, open_services: tuple[str, ...]
    ) -> None:
        self._caller = caller
        self._metrics = metrics
        self._open = tuple(f"/{name}/" for name in open_services)
        self._handlers: dict[str, Handler] = {}
        self._timed: dict[str, Handler] = {}
        self._refusal: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
        self._farewell: Handler = grpc.stream_stream_rpc_method_handler(say_farewell)
        self._closed = False
        self._last_call = 0.0

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the methods of a service."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    def add_timed(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add what answers calls of known methods that ask for their timings."""
        for name, handler in handlers.items():
            self._timed[f"/{service}/{name}"] = handler

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What generated functions call besides; the methods are known by then."""

    def service(self, call: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None if there is no such method."""
        handler = self._handlers.get(call.method)
        if asks(call.invocation_metadata):
            handler = self._timed.get(call.method, handler)
        is_open = call.method.startswith(self._open)
        if self._closed and not is_open:
            self._last_call = time.monotonic()
            return self._farewell
        if self._caller is None or is_open:
            return handler
        if self._caller.allows(call.invocation_metadata):
            return handler
        self._metrics.rejected("unauthenticated")
        # A handler of a stream is called before a message is read.
        return self._refusal

    def close(self) -> None:
        """Turn away all calls from now on but those of open services, with UNAVAILABLE."""
        self._closed = True
        self._last_call = time.monotonic()

    async def quiet(self, seconds: float) -> None:
        """Return once nobody has called a closed gate for a moment, or after so many seconds.

        gRPC ends calls that reach a server just as it stops with CANCELLED, which no caller takes
        for a reason to try another one (https://github.com/grpc/grpc/issues/41785).
        """
        end = time.monotonic() + seconds
        while (wait := min(self._last_call + _QUIET_SECONDS, end) - time.monotonic()) > 0:
            await asyncio.sleep(wait)


async def say_farewell(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """End a call that a server that stops does not answer; another one may."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "a valid token is needed: authorization: Bearer TOKEN"
    )
