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
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from grpc import _server
from grpc._cython import cygrpc

from cass_server.observability.call import Call
from cass_server.rpc.deadlines import Deadlines
from cass_server.rpc.delivery import Delivery
from cass_server.rpc.handlers import refuse
from cass_server.scheduling.compute_pool import DONE

_PARAMETERS = "rpc_event state behavior argument_thunk request_deserializer response_serializer"
_NAMES = (
    "_CANCELLED _RECEIVE_MESSAGE_TOKEN _SEND_MESSAGE_TOKEN _call_behavior"
    " _get_initial_metadata_operation _is_rpc_state_active _possibly_finish_call _raise_rpc_error"
    " _receive_message _status _stream_response_in_pool"
)


def _is_supported() -> bool:
    respond = getattr(_server, "_unary_response_in_pool", None)
    return (
        respond is not None
        and " ".join(inspect.signature(respond).parameters) == _PARAMETERS
        and all(hasattr(_server, name) for name in _NAMES.split())
        and hasattr(cygrpc, "ReceiveMessageOperation")
    )


IS_SUPPORTED = _is_supported()


class Received:
    """The messages of an admitted call: one, or none.

    ``in_time`` says whether that one, or that there is none, came before the call was cancelled.
    """

    def __init__(self, message: bytes | None, call: Call, in_time: bool) -> None:
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


class MessageFirst(Executor):
    """Takes a thread of a pool for a call once the call's message is there; stands before it.

    What answers an RPC of one message has a method ``admit``: the record of a call whose message is
    there, or the status to end it with. It answers an admitted call if its messages are `Received`.
    """

    def __init__(
        self, pool: Executor, deadlines: Deadlines, receive_seconds: float, delivery: Delivery
    ) -> None:
        self._pool = pool
        self._deadlines = deadlines
        self._seconds = receive_seconds
        self._respond = delivery.respond

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Receive the message of a call and then have it answered; returns at once.

        Called by gRPC's server, in its serving thread and with the lock of the call's state.
        """
        if not IS_SUPPORTED or args[0] is not _server._unary_response_in_pool:
            return self._pool.submit(function, *args, **kwargs)
        started = time.perf_counter()
        respond, rpc_event, state, method, _, *rest = args
        receive = _server._receive_message(state, rpc_event.call, None)
        cancel = rpc_event.call.cancel

        def received(event: Any) -> Any:
            outcome = receive(event)
            in_time = self._deadlines.stop(cancel)
            message, state.request = state.request, None
            call = method.admit(rpc_event.invocation_metadata or (), started)
            if isinstance(call, Call):
                messages = Received(message, call, in_time)
                self._pool.submit(
                    function, self._respond, rpc_event, state, method, lambda: messages, *rest
                )
            else:
                function(respond, rpc_event, state, refuse(call), lambda: (), *rest)
            return outcome

        self._deadlines.start(cancel, self._seconds)
        rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        return DONE


class ReadAheadPool(ThreadPoolExecutor):
    """Threads of streams, whose next messages are received while they answer."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a stream in a thread; see `MessageFirst.submit`."""
        if IS_SUPPORTED and args and args[0] is _server._stream_response_in_pool:
            respond, rpc_event, state, behavior, _, *rest = args
            return super().submit(
                function,
                respond,
                rpc_event,
                state,
                behavior,
                lambda: _ReadAhead(rpc_event.call, state),
                *rest,
            )
        return super().submit(function, *args, **kwargs)


class _ReadAhead:
    """The messages of a stream, as gRPC's own iterator gives them, one ahead."""

    def __init__(self, call: Any, state: Any) -> None:
        self._call = call
        self._state = state
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
            while _server._RECEIVE_MESSAGE_TOKEN in state.due:
                state.condition.wait()
            message: bytes | None = state.request
            state.request = None
            if message is None:
                if state.client is _server._CANCELLED:
                    _server._raise_rpc_error(state)
                raise StopIteration
            self._receive()
            return message
