"""Receives messages before there are threads that answer them.

gRPC's server takes a thread for each call at once, and the thread waits for the message. So callers
that send nothing would hold threads, and each message would cost two more switches between threads:
a tenth of a small answer. Here gRPC's serving thread receives the message of a single call before
there is a thread for it, and a stream's next message while the one before it is answered.

There is no public way to do that. What is used of `grpc._server` is checked at import; where it is
not as expected, threads wait as ever, and the server needs many of them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from functools import partial
from threading import Thread
from typing import Any, Protocol

import grpc
from grpc import _server
from grpc._cython import cygrpc

from cass_server.observability.call import Call, Metadata
from cass_server.rpc.delivery import Delivery
from cass_server.rpc.handlers import give_up, refuse
from cass_server.scheduling.admission import SMALL_BYTES
from cass_server.scheduling.compute_pool import DONE
from cass_server.scheduling.thread_pool import ThreadPool

_ENDING_THREADS = 16

_PARAMETERS = "rpc_event state behavior argument_thunk request_deserializer response_serializer"
_NAMES = (
    "_CANCELLED _RECEIVE_MESSAGE_TOKEN _SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN"
    " _SEND_MESSAGE_TOKEN _abort _call_behavior _get_initial_metadata_operation"
    " _is_rpc_state_active _possibly_finish_call _raise_rpc_error _receive_message _status"
    " _stream_response_in_pool"
)
_OPERATIONS = (
    "ReceiveMessageOperation SendMessageOperation install_context_from_request_call_event"
    " uninstall_context"
)


def _is_supported() -> bool:
    respond = getattr(_server, "_unary_response_in_pool", None)
    return (
        respond is not None
        and " ".join(inspect.signature(respond).parameters) == _PARAMETERS
        and all(hasattr(_server, name) for name in _NAMES.split())
        and all(hasattr(cygrpc, name) for name in _OPERATIONS.split())
    )


IS_SUPPORTED = _is_supported()
_RESPONDS = [
    getattr(_server, name, None) for name in ("_unary_response_in_pool", "_stream_response_in_pool")
]


class Peer:
    """What gRPC's state of a call, as its attribute ``peer``, has for `rpc.slow_peers`.

    Attributes:
        started: when the call came, on `time.perf_counter`'s clock.
        is_stream: whether it has messages one after the other, and may be silent.
        unread_since: when its answer was first seen waiting for the reader; None until then.
        is_late: whether it was cancelled since no message came in time.
    """

    is_stream = False
    unread_since: float | None = None
    is_late = False

    def __init__(self, rpc_event: Any, started: float) -> None:
        self._event = rpc_event
        self.started = started

    @property
    def call(self) -> Any:
        """gRPC's call."""
        return self._event.call

    @property
    def path(self) -> str:
        """Of the method."""
        path: bytes = self._event.call_details.method
        return path.decode()

    @property
    def metadata(self) -> Metadata:
        """Of the call."""
        metadata: Metadata = self._event.invocation_metadata or ()
        return metadata


class StreamPeer(Peer):
    """As `Peer`, of a stream."""

    is_stream = True


class Received:
    """The messages of a call: one, or none.

    ``call`` is what ``admit`` has returned, None if there is no message; ``in_time`` says whether
    that came out before the call was cancelled.
    """

    def __init__(self, message: bytes | None, call: Call | None, in_time: bool = True) -> None:
        self._message = message
        self.call = call
        self.in_time = in_time

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        message, self._message = self._message, None
        if message is None:
            raise StopIteration
        return message


class OneMessage(Protocol):
    """What answers an RPC of one message, called with its `Received` and the context."""

    pool: Executor | None
    """Where it runs; None for the compute pool."""

    def admit(
        self, metadata: Metadata, peer: bytes, started: float, size: int
    ) -> Call | grpc.Status | None:
        """Takes a call whose message is there: its record, if any, or the status to end it with.

        Args:
            metadata: of the call.
            peer: address of its connection.
            started: when it came, on `time.perf_counter`'s clock.
            size: bytes of the message.
        """
        ...


class MessageFirst(Executor):
    """Takes a thread of a pool for a call once the call's message is there; stands before it.

    All methods that run in it are `OneMessage`. Calls that end without a message have threads of
    their own: it takes a moment until it turns out why.
    """

    def __init__(self, pool: Executor, delivery: Delivery) -> None:
        self._pool = pool
        self._delivery = delivery
        self._ending = ThreadPool(_ENDING_THREADS, "no message")

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Receive the message of a call and then have it answered; returns at once.

        Called by gRPC's server, in its serving thread and with the lock of the call's state.
        """
        if not IS_SUPPORTED:
            own = next((arg.pool for arg in args if getattr(arg, "pool", None)), self._pool)
            future: Future[Any] = own.submit(function, *args, **kwargs)
            return future
        started = time.perf_counter()
        respond, rpc_event, state, method, _, *rest = args
        receive = _server._receive_message(state, rpc_event.call, None)
        peer = state.peer = Peer(rpc_event, started)
        is_unary = respond is _server._unary_response_in_pool
        answer = self._delivery.respond if is_unary else respond

        def received(event: Any) -> Any:
            outcome = receive(event)
            message, state.request = state.request, None
            if not state.statused:  # refused meanwhile, by `rpc.slow_peers`
                try:
                    run(message)
                except Exception:
                    give_up(rpc_event.call)
            return outcome

        def run(message: bytes | None) -> None:
            pool, call = method.pool or self._pool, None
            if message is None:
                pool = self._ending
            else:
                metadata = rpc_event.invocation_metadata or ()
                call = method.admit(metadata, rpc_event.call.peer(), started, len(message))
                if call is not None and not isinstance(call, Call):
                    function(respond, rpc_event, state, refuse(call), lambda: (), *rest)
                    return
            messages = Received(message, call, not peer.is_late)
            try:
                pool.submit(function, answer, rpc_event, state, method, lambda: messages, *rest)
            except Exception:
                with call or nullcontext():  # whose place and bytes are given back
                    raise

        try:
            rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        except Exception:
            give_up(rpc_event.call)
        return DONE


class HelperPool(ThreadPool):
    """Threads of other services' calls, which have `rpc.slow_peers` see that they wait."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function, perhaps that of a call, in a thread."""
        if IS_SUPPORTED and args and args[0] in _RESPONDS:
            _, rpc_event, state, *_ = args
            state.peer = Peer(rpc_event, time.perf_counter())
            try:
                return super().submit(function, *args)
            except Exception:
                give_up(rpc_event.call)
                return DONE
        return super().submit(function, *args, **kwargs)


class ReadAheadPool(ThreadPool):
    """A thread for each stream, whose next messages are received while it answers.

    Args:
        most: how many streams there may be, which the caller sees to.
        given_up: called with the metadata of a stream that there is no thread for.
    """

    def __init__(self, most: int, given_up: Callable[[Metadata], None]) -> None:
        super().__init__(most, "stream")
        self._given_up = given_up

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a stream in a thread; see `MessageFirst.submit`."""
        if not (IS_SUPPORTED and args and args[0] is _server._stream_response_in_pool):
            return super().submit(function, *args, **kwargs)
        respond, rpc_event, state, behavior, _, *rest = args
        peer = state.peer = StreamPeer(rpc_event, time.perf_counter())
        messages = partial(_ReadAhead, rpc_event.call, state)
        call = (respond, rpc_event, state, behavior, messages, *rest)
        try:
            # Not the pool's own way: a stream must not wait for another's thread.
            Thread(target=function, args=call, name="stream", daemon=True).start()
        except Exception:
            give_up(peer.call)
            self._given_up(peer.metadata)
        return DONE


class _ReadAhead:
    """The messages of a stream, as gRPC's own iterator gives them, one ahead.

    After a large message the next one is received once it is asked for: what is received ahead is
    counted nowhere.
    """

    def __init__(self, call: Any, state: Any) -> None:
        self._call = call
        self._state = state
        self._is_ahead = True
        with state.condition:
            self._receive()

    def _receive(self) -> None:
        state = self._state
        if _server._is_rpc_state_active(state):
            self._call.start_server_batch(
                (cygrpc.ReceiveMessageOperation(0),),
                _server._receive_message(state, self._call, None),
            )
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        state = self._state
        with state.condition:
            if not self._is_ahead:
                self._receive()
            while _server._RECEIVE_MESSAGE_TOKEN in state.due:
                state.condition.wait()
            message: bytes | None = state.request
            state.request = None
            if message is None:
                if state.client is _server._CANCELLED:
                    _server._raise_rpc_error(state)
                raise StopIteration
            self._is_ahead = len(message) <= SMALL_BYTES
            if self._is_ahead:
                self._receive()
            return message
