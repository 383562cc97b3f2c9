"""The service with any engine and limits, on a loopback port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from cass.v1 import cass_pb2_grpc
from cass_server.admission import Admission
from cass_server.engine import CpuEngine, Engine
from cass_server.gate import Gate
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.service import CassService


@contextlib.contextmanager
def service(engine: Engine | None = None, limits: Limits | None = None) -> Iterator[Any]:
    """A stub for a running service."""
    loop = asyncio.new_event_loop()
    ready: Future[int] = Future()
    stop = asyncio.Event()

    async def run() -> None:
        with ThreadPoolExecutor(4) as executor:
            metrics = Metrics()
            gate = Gate(None, metrics, ())
            CassService(
                engine or CpuEngine(),
                limits or Limits(),
                executor,
                Admission(limits or Limits()),
                metrics,
            ).add_to(gate)
            server = grpc.aio.server(handlers=(gate,))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            ready.set_result(port)
            await stop.wait()
            await server.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{ready.result(timeout=60)}") as channel:
            yield cass_pb2_grpc.CassServiceStub(channel)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=60)
        loop.close()
