"""The service with any engine and limits, on a loopback port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import grpc

from cass.v1 import cass_pb2_grpc
from cass_server.admission import Admission
from cass_server.engine import CpuEngine, Engine
from cass_server.gate import Gate
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.service import CassService

_ANY_SIZE = (("grpc.max_receive_message_length", -1),)


@contextlib.contextmanager
def behind(
    gate: Gate, add: Callable[[Executor], None], receive_bytes: int = -1
) -> Iterator[grpc.Channel]:
    """A channel to a server behind a gate; ``add`` is called on its event loop, to fill it.

    The server takes messages of any size, and the client of at most ``receive_bytes``, any by
    default.
    """
    loop = asyncio.new_event_loop()
    ready: Future[int] = Future()
    stop = asyncio.Event()

    async def run() -> None:
        with ThreadPoolExecutor(4) as executor:
            add(executor)
            server = grpc.aio.server(handlers=(gate,), options=_ANY_SIZE)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            ready.set_result(port)
            await stop.wait()
            await server.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="event loop")
    thread.start()
    try:
        address = f"127.0.0.1:{ready.result(timeout=60)}"
        options = (("grpc.max_receive_message_length", receive_bytes),)
        with grpc.insecure_channel(address, options) as channel:
            yield channel
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=60)
        loop.close()


@contextlib.contextmanager
def service_channel(
    engine: Engine | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    gate: Gate | None = None,
    receive_bytes: int = -1,
) -> Iterator[grpc.Channel]:
    """A channel to a running service, for calls with bytes; see `behind`."""
    limits, metrics = limits or Limits(), metrics or Metrics()
    gate = gate or Gate(None, metrics, ())

    def add(executor: Executor) -> None:
        CassService(engine or CpuEngine(), limits, executor, Admission(limits), metrics).add_to(
            gate
        )

    with behind(gate, add, receive_bytes) as channel:
        yield channel


@contextlib.contextmanager
def service(
    engine: Engine | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    receive_bytes: int = -1,
) -> Iterator[Any]:
    """A stub for a running service; see `behind`."""
    with service_channel(engine, limits, metrics, receive_bytes=receive_bytes) as channel:
        yield cass_pb2_grpc.CassServiceStub(channel)
