"""The service with any engine and limits, on a loopback port, in threads of the test's process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import grpc

from cass.contract import SERVICE_NAME
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from cass_server.engines.base import CpuEngine, Engine
from cass_server.observability.call import Metadata
from cass_server.observability.metrics import Metrics
from cass_server.rpc import health
from cass_server.rpc.answerer import Answerer
from cass_server.rpc.deadlines import Deadlines
from cass_server.rpc.health import Health
from cass_server.rpc.receiving import MessageFirst
from cass_server.rpc.router import Router
from cass_server.rpc.servicer import CassService
from cass_server.rpc.streams import MaskStreams
from cass_server.scheduling.admission import Admission
from cass_server.scheduling.compute_pool import ComputePool
from tests.server.support.processes import LIMIT

SLOTS = 4
"""How many requests compute at a time."""

# It ends no call by itself, and its thread never ends.
_deadlines = Deadlines()


@dataclass(frozen=True)
class Running:
    """A server, and those of its parts that a test may look at or stop."""

    address: str
    metrics: Metrics
    admission: Admission
    pool: ComputePool
    streams: MaskStreams
    health: Health
    router: Router
    server: grpc.Server


@contextlib.contextmanager
def running(
    engine: Engine | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    allows: Callable[[Metadata], bool] | None = None,
    slots: int = SLOTS,
) -> Iterator[Running]:
    """A server of messages of any size, which does not tell yet that it serves."""
    limits, metrics = limits or Limits(), metrics or Metrics()
    admission = Admission(limits)
    pool = ComputePool(slots)
    answerer = Answerer(engine or CpuEngine(), admission, _deadlines, pool, metrics)
    streams = MaskStreams(answerer, limits)
    helpers = ThreadPoolExecutor(256)
    status = Health((SERVICE_NAME,), helpers, _deadlines, limits.receive_seconds)
    service = CassService(answerer, limits, streams, helpers)
    router = Router(service, allows, helpers)
    router.add_registered_method_handlers(health.SERVICE_NAME, status.handlers())
    server = grpc.server(
        cast(ThreadPoolExecutor, MessageFirst(pool, _deadlines, limits.receive_seconds)),
        handlers=[router],
        maximum_concurrent_rpcs=router.limit,
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield Running(address, metrics, admission, pool, streams, status, router, server)
    finally:
        status.end()
        assert server.stop(0).wait(LIMIT)
        helpers.shutdown(wait=False)


@contextlib.contextmanager
def connected(address: str, receive_bytes: int = -1) -> Iterator[grpc.Channel]:
    """A channel with a connection of its own, which takes answers of at most so many bytes."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", receive_bytes),
    ]
    with grpc.insecure_channel(address, options) as channel:
        yield channel


@contextlib.contextmanager
def service_channel(
    engine: Engine | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    receive_bytes: int = -1,
) -> Iterator[grpc.Channel]:
    """A channel to a server of its own, for calls with bytes; see `running`."""
    with (
        running(engine, limits, metrics) as server,
        connected(server.address, receive_bytes) as channel,
    ):
        yield channel


@contextlib.contextmanager
def service(*arguments: Any, **options: Any) -> Iterator[Any]:
    """As `service_channel`, but a stub."""
    with service_channel(*arguments, **options) as channel:
        yield cass_pb2_grpc.CassServiceStub(channel)
