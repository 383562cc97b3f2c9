"""Which threads run the function behind a call: gRPC's server reads that from the function."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from cass_server.scheduling.compute_pool import DONE

_log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class OnPool:
    """A function that answers calls in the threads of a pool.

    gRPC's server looks for the two attributes, which grpcio-health-checking uses as well. A
    function that ``sends`` takes a third argument, by which it sends answers and in the end None;
    others return them.
    """

    def __init__(
        self, function: Callable[..., Any], pool: ThreadPoolExecutor, *, sends: bool = False
    ) -> None:
        self._function = function
        self.experimental_thread_pool = pool
        self.experimental_non_blocking = sends

    def __call__(self, *arguments: Any) -> Any:
        """Answer a call."""
        return self._function(*arguments)


def on_pool(handler: Handler, pool: ThreadPoolExecutor) -> Handler:
    """The handler, its function run in the threads of a pool unless it has one already."""
    make: Any = grpc.unary_unary_rpc_method_handler
    function = handler.unary_unary
    if function is None:  # reflection and channelz have methods of these two kinds
        make, function = grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if function is None or hasattr(function, "pool"):
        return handler
    made: Handler = make(
        OnPool(function, pool), handler.request_deserializer, handler.response_serializer
    )
    return made


def refuse(status: grpc.Status) -> Callable[[Any, grpc.ServicerContext], None]:
    """A function that ends a call with a status."""

    def abort(_: Any, context: grpc.ServicerContext) -> None:
        context.abort_with_status(status)

    return abort


def refusal(status: grpc.Status) -> Handler:
    """A handler that ends a call with a status before its message is read.

    It runs in gRPC's serving thread, where the call arrives: a refusal must cost less than an
    answer, and a thread would cost it as much again.
    """
    return grpc.stream_stream_rpc_method_handler(OnPool(refuse(status), in_place))


def give_up(call: Any) -> None:
    """Cancels a call that an exception keeps from its answer: there is no thread, or no memory.

    What is raised in gRPC's serving thread would end it, and the server would answer nothing more.
    """
    _log_once()
    call.cancel()


@functools.cache
def _log_once() -> None:
    _log.exception("a call cannot be answered, nor perhaps others, which are not logged")


class _InPlace(ThreadPoolExecutor):
    """Runs what neither waits nor computes in the thread that submits it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        function(*args, **kwargs)
        return DONE


in_place = _InPlace(max_workers=1)
"""Of its threads it never starts one."""
