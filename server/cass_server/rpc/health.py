"""The `grpc.health.v1` service: whether this process serves, for probes and for watchers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from cass_server.rpc.handlers import Handler, in_place
from cass_server.rpc.receiving import IS_SUPPORTED, Received
from cass_server.rpc.streams import Send
from cass_server.scheduling.deadlines import Deadlines
from cass_server.scheduling.thread_pool import ThreadPool

_Response = health_pb2.HealthCheckResponse

_log = logging.getLogger(__name__)

# Threads that send to watchers: not those of probes, since a watcher that does not read holds one
# until its time is over.
_SENDING_THREADS = 64

FILES = "cass.files"
"""The service whose status says whether the files of TLS and tokens can be used as they are now."""

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """Reports one status for the server as a whole and for the services named, and that of `FILES`.

    Unlike grpcio-health-checking's servicer, it ends its watchers' streams when the server ends,
    which a drain would otherwise wait for, and a watcher that does not read delays no other.
    A watch takes a thread only while something is sent, and has ``receive_seconds`` to read it.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        pool: Executor,
        deadlines: Deadlines,
        receive_seconds: float,
    ) -> None:
        self._services = ("", *services)
        self._deadlines = deadlines
        self._receive_seconds = receive_seconds
        self._pool = pool
        self._telling = ThreadPool(_SENDING_THREADS, "watchers")
        self._status = _Response.NOT_SERVING
        self._files_status = _Response.SERVING
        self._ended = False
        self._lock = threading.Lock()
        self._updates: set[Callable[[], None]] = set()

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered."""
        return bool(self._status == _Response.SERVING)

    def handlers(self) -> dict[str, Handler]:
        """The handlers of the service's methods."""
        check = _Method(self._check, in_place if IS_SUPPORTED else self._pool)
        watch = _Method(self._watch, self._telling, sends=True)
        return {
            "Check": grpc.stream_unary_rpc_method_handler(check),
            "Watch": grpc.stream_stream_rpc_method_handler(watch),
        }

    def end(self) -> None:
        """Stops serving for good: watchers receive that, and their streams end."""
        self.set(False, ended=True)

    def set(self, serving: bool, *, ended: bool = False) -> None:
        """Changes the status, unless the server has ended."""
        with self._lock:
            if self._ended:
                return
            self._status = _Response.SERVING if serving else _Response.NOT_SERVING
            self._ended = ended
            updates = list(self._updates)
        self._tell(updates)

    def set_files(self, usable: bool) -> None:
        """Changes the status of `FILES`, which the server's own does not depend on."""
        status = _Response.SERVING if usable else _Response.NOT_SERVING
        with self._lock:
            if status == self._files_status:
                return
            self._files_status = status
            updates = list(self._updates)
        self._tell(updates)

    def _tell(self, updates: list[Callable[[], None]]) -> None:
        """Have watchers told; what becomes of that is not to concern who changes the status."""
        for update in updates:
            try:
                self._telling.submit(update)
            except Exception:  # there is no memory; the next change tells them the status then
                _log.exception("a watcher cannot be told of a change")

    def _status_of(self, service: str) -> int:
        if service == FILES:
            return int(self._files_status)
        return int(self._status if service in self._services else _Response.SERVICE_UNKNOWN)

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The status now; NOT_FOUND for another service's."""
        status = self._status_of(self._service(requests, context))
        if status == _Response.SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes(_Response(status=status).SerializeToString())

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
        """The status now and after each change, until the caller goes or the server ends."""
        service, lock = self._service(requests, context), threading.Lock()
        sent: int | None = -1

        def update() -> None:
            nonlocal sent
            with lock, self._deadlines.within(context.cancel, self._receive_seconds):
                ended = self._ended  # before the status, which is the last one if it has
                status = self._status_of(service)
                if sent not in (None, status):
                    sent = status
                    send(_Response(status=status).SerializeToString())
                if ended and sent is not None:
                    sent = None
                    send(None)  # which ends the stream

        def forget() -> None:
            with self._lock:
                self._updates.discard(update)

        if context.add_callback(forget):
            with self._lock:
                self._updates.add(update)
            update()

    def _service(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> str:
        try:
            with (
                nullcontext()
                if isinstance(requests, Received)
                else self._deadlines.within(context.cancel, self._receive_seconds)
            ):
                data = next(requests)
            return str(health_pb2.HealthCheckRequest.FromString(data).service)
        except (StopIteration, DecodeError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: is no HealthCheckRequest")
            raise


class _Method:
    """A method with one message; see `cass_server.rpc.receiving.OneMessage`."""

    def __init__(
        self, function: Callable[..., Any], pool: Executor, *, sends: bool = False
    ) -> None:
        self.pool = pool
        self._function = function
        self.experimental_non_blocking = sends

    def admit(self, *_: object) -> None:
        """It counts against no limit."""

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)
