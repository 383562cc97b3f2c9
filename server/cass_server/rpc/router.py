"""Finds the handler of each call, or refuses the call before its message is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from cass_server.exceptions import Overloaded, Rejection, Stopping, Unauthenticated, Unimplemented
from cass_server.observability.call import Metadata
from cass_server.rpc import health
from cass_server.rpc.handlers import Handler, on_pool, refusal
from cass_server.rpc.servicer import CassService

_HEALTH = f"/{health.SERVICE_NAME}/"
# Without a call for so long, callers have gone elsewhere or wait before they try again.
_QUIET_SECONDS = 0.05


class Router(grpc.GenericRpcHandler):
    """Decides on each call: does the method exist, is the caller allowed, is there room?

    It does so in gRPC's serving thread, before anything else. A refused call ends in that thread:
    in a flood, that decides how much is still answered. Generated ``add_…_to_server``
    functions take a router for a server; their services get the threads of ``helper_pool``.
    Health checks need no token, and are answered while the server stops.
    """

    def __init__(
        self,
        service: CassService,
        allows: Callable[[Metadata], bool] | None,
        helper_pool: ThreadPoolExecutor,
    ) -> None:
        self._service = service
        self._allows = allows
        self._openers = service.openers
        self._helper_pool = helper_pool
        self._helpers: dict[str, Handler] = {}
        self._closed = False
        self.limit = Limit()
        self._last_call = 0.0

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the methods of a service."""
        for name, handler in handlers.items():
            self._helpers[f"/{service}/{name}"] = on_pool(handler, self._helper_pool)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What generated functions call besides; the methods are known by then."""

    def service(self, call: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None if there is no such method of the health service."""
        self.limit.is_exceeded = False
        metadata: Metadata = call.invocation_metadata or ()
        if call.method.startswith(_HEALTH):
            return self._helpers.get(call.method)
        try:
            if self._closed:
                self._last_call = time.monotonic()
                raise Stopping
            if self._allows is not None and not self._allows(metadata):
                raise Unauthenticated
            opener = self._openers.get(call.method)
            if opener is not None:
                return opener()
            if call.method not in self._helpers:
                raise Unimplemented(call.method)
            return self._helpers[call.method]
        except Rejection as error:
            if isinstance(error, Overloaded) and not error.delay:
                self._service.refused_by_grpc(call.method)
                self.limit.is_exceeded = True
                return _NO_HANDLER
            return refusal(self._service.refused(call.method, metadata, error))

    def close(self) -> None:
        """Refuses all calls from now on but health checks, with UNAVAILABLE."""
        self._closed = True
        self._last_call = time.monotonic()

    def wait_idle(self, seconds: float) -> None:
        """Returns once a closed router has had no call for a moment, or after so many seconds.

        gRPC ends calls that reach a server just as it stops with CANCELLED, which no caller takes
        for a reason to try another one (https://github.com/grpc/grpc/issues/41785).
        """
        end = time.monotonic() + seconds
        while (wait := min(self._last_call + _QUIET_SECONDS, end) - time.monotonic()) > 0:
            time.sleep(wait)


class Limit:
    """What gRPC's server compares its number of calls with, to refuse a call by itself.

    It compares before it gets a handler from the router, and looks at the result after that. A
    call that gRPC refuses costs a third less than one that a handler does, and health checks go by
    no number.
    """

    is_exceeded = False

    def __le__(self, _: object) -> Limit:
        return self

    def __bool__(self) -> bool:
        return self.is_exceeded


def _never(_: Any, context: grpc.ServicerContext) -> None:
    raise AssertionError("gRPC refuses this call")


_NO_HANDLER: Handler = grpc.stream_unary_rpc_method_handler(_never)
