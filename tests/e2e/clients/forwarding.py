"""A server between a client and the real one, which first refuses, or keeps silent for good."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc

from cass.contract import SERVICE_NAME
from cass_server.rpc.status import status_of
from tests.client.support.small_servers import running

Refusal = Exception | grpc.StatusCode
"""An error as the server maps it, or a code that comes from gRPC or a proxy, without details."""

# Field 1000, which no message has, of five million bytes: more than gRPC takes by itself, and what
# a later server may send.
_UNKNOWN_FIELD = bytes([0xC2, 0x3E, 0xC0, 0x96, 0xB1, 0x02]) + bytes(5_000_000)


class Arrival(NamedTuple):
    """One try of a call."""

    method: str
    at: float
    """By `time.monotonic`."""
    seconds: float
    """Until its deadline."""


class ForwardingServer(grpc.GenericRpcHandler):
    """Refuses the first tries and forwards the others; reflection is forwarded at once.

    Attributes:
        address: where it serves.
        arrivals: the tries, in their order.
    """

    def __init__(
        self, target: grpc.Channel, refusals: tuple[Refusal, ...], *, is_silent: bool
    ) -> None:
        self.address = ""
        self.arrivals: list[Arrival] = []
        self._target = target
        self._refusals = iter(refusals)
        self._is_silent = is_silent

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """The handler of a call."""
        service, _, method = call.method[1:].partition("/")
        if service == SERVICE_NAME:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: self._answer(method, request, context)
            )
        forward = self._target.stream_stream(call.method)
        return grpc.stream_stream_rpc_method_handler(lambda requests, _: forward(requests))

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.arrivals.append(Arrival(method, time.monotonic(), context.time_remaining()))
        if self._is_silent:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait()
        refusal = next(self._refusals, None)
        if isinstance(refusal, grpc.StatusCode):
            context.abort(refusal, "")
        if refusal is not None:
            context.abort_with_status(status_of(refusal))
        return self._target.unary_unary(f"/{SERVICE_NAME}/{method}")(request) + _UNKNOWN_FIELD


@contextlib.contextmanager
def forwarding(
    address: str, *refusals: Refusal, is_silent: bool = False
) -> Iterator[ForwardingServer]:
    """One before the server at an address, stopped at the end."""
    with grpc.insecure_channel(address) as target:
        handler = ForwardingServer(target, refusals, is_silent=is_silent)
        server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
        with running(server) as handler.address:
            yield handler
