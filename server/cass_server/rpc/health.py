"""The `grpc.health.v1` service: whether this process serves, for probes and for watchers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from cass_server.rpc.deadlines import Deadlines
from cass_server.rpc.handlers import Handler, OnPool
from cass_server.rpc.streams import Send

_Response = health_pb2.HealthCheckResponse

# Threads that send to watchers: not those of probes, since a watcher that does not read holds one
# until its time is over.
_SENDING_THREADS = 64

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """Reports one status for the server as a whole and for the services named.

    Unlike grpcio-health-checking's servicer, it ends its watchers' streams when the server ends,
    which a drain would otherwise wait for, and a watcher that does not read delays no other.
    A watch takes a thread only while something is sent, and has ``receive_seconds`` to read it.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        pool: ThreadPoolExecutor,
        deadlines: Deadlines,
        receive_seconds: float,
    ) -> None:
        self._services = ("", *services)
        self._deadlines = deadlines
        self._receive_seconds = receive_seconds
        self._pool = pool
        self._telling = ThreadPoolExecutor(_SENDING_THREADS, thread_name_prefix="watchers")
        self._status = _Response.NOT_SERVING
        self.ended = False
        self._lock = threading.Lock()
        self._watchers: set[_Watcher] = set()

    def handlers(self) -> dict[str, Handler]:
        """The handlers of the service's methods."""
        return {
            "Check": grpc.stream_unary_rpc_method_handler(OnPool(self._check, self._pool)),
            "Watch": grpc.stream_stream_rpc_method_handler(
                OnPool(self._watch, self._telling, sends=True)
            ),
        }

    def end(self) -> None:
        """Stops serving for good: watchers receive that, and their streams end."""
        self.set(False, ended=True)

    def set(self, serving: bool, *, ended: bool = False) -> None:
        """Changes the status, unless the server has ended."""
        with self._lock:
            if self.ended:
                return
            self._status = _Response.SERVING if serving else _Response.NOT_SERVING
            self.ended = ended
            watchers = list(self._watchers)
        for watcher in watchers:
            self._telling.submit(watcher.update)

    def status(self, service: str) -> int:
        """The status of a service, by the contract's numbers."""
        return int(self._status if service in self._services else _Response.SERVICE_UNKNOWN)

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The status now; NOT_FOUND for another service's."""
        status = self.status(self._service(requests, context))
        if status == _Response.SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes(_Response(status=status).SerializeToString())

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
        """The status now and after each change, until the caller goes."""

        def report(status: bytes | None) -> None:
            with self._deadlines.within(context.cancel, self._receive_seconds):
                send(status)

        watcher = _Watcher(self, self._service(requests, context), report)
        if not context.add_callback(lambda: self._forget(watcher)):
            return
        with self._lock:
            self._watchers.add(watcher)
        watcher.update()

    def _forget(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _service(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> str:
        try:
            with self._deadlines.within(context.cancel, self._receive_seconds):
                data = next(requests)
            return str(health_pb2.HealthCheckRequest.FromString(data).service)
        except (StopIteration, DecodeError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: is no HealthCheckRequest")
            raise


class _Watcher:
    """One caller of ``Watch``."""

    def __init__(self, health: Health, service: str, send: Send) -> None:
        self._health = health
        self._service = service
        self._send = send
        self._sent: int | None = -1
        self._lock = threading.Lock()

    def update(self) -> None:
        """Send the status if it is another than the last one; wait until it can be sent."""
        with self._lock:
            ended = self._health.ended  # before the status, which is the last one if it has
            status = self._health.status(self._service)
            if self._sent is None:
                return
            if status != self._sent:
                self._sent = status
                self._send(_Response(status=status).SerializeToString())
            if ended:
                self._sent = None
                self._send(None)  # which ends the stream
