"""The service with any engine and limits, on a loopback port, in threads of the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.contract import SERVICE_NAME
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from cass_server.engines.base import CpuEngine, Engine
from cass_server.observability.call import Metadata
from cass_server.observability.metrics import Metrics
from cass_server.open_inference.service import open_inference
from cass_server.rpc import health
from cass_server.rpc.answerer import Answerer
from cass_server.rpc.delivery import Delivery
from cass_server.rpc.health import Health
from cass_server.rpc.receiving import HelperPool, MessageFirst
from cass_server.rpc.router import Router
from cass_server.rpc.servicer import CassService, Host
from cass_server.rpc.slow_peers import SlowPeers
from cass_server.rpc.streams import MaskStreams
from cass_server.scheduling.admission import Admission
from cass_server.scheduling.compute_pool import ComputePool
from cass_server.scheduling.deadlines import Deadlines
from cass_server.scheduling.thread_pool import ThreadPool
from tests.server.support.load import connect
from tests.server.support.observed import Counted
from tests.server.support.processes import LIMIT, status_name, wait_until
from tests.server.support.requests import mask_request

SLOTS = 4
"""How many requests compute at a time."""

# It ends no call by itself, and its thread never ends.
_deadlines = Deadlines()


@dataclass(frozen=True)
class Running(Counted):
    """A server, and those of its parts that a test may look at or stop.

    Attributes:
        channel: a connection of its own.
        stub: of the service, on that connection.
    """

    address: str
    channel: grpc.Channel
    stub: Any
    metrics: Metrics
    admission: Admission
    streams: MaskStreams
    health: Health
    router: Router
    slow_peers: SlowPeers

    def has_room(self, side: int = 4) -> bool:
        """Whether a request for a map with so many cells along each side is answered now."""
        try:
            self.stub.GenerateMask(mask_request(side=side), timeout=LIMIT)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        return True

    def health_check(self) -> str:
        """The status of the server."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        return status_name(stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT))

    def assert_all_is_given_back(self) -> None:
        """Fails unless soon neither a request nor a byte counts as in flight."""
        self.wait_in_flight(0)
        # More than there may be is let in where there is nothing.
        wait_until(lambda: self.admission.try_hold(1 << 60))
        self.admission.drop(1 << 60)
        idle = threading.Thread(target=self.admission.wait_idle, args=(10 * LIMIT,), daemon=True)
        idle.start()
        idle.join(LIMIT)
        assert not idle.is_alive()


@contextlib.contextmanager
def running(
    engine: Engine | None = None,
    limits: Limits | None = None,
    *,
    allows: Callable[[Metadata], bool] | None = None,
    by_token: bool = False,
    slots: int = SLOTS,
    receive_bytes: int = -1,
    helper_threads: int = 256,
) -> Iterator[Running]:
    """A server of messages of any size, whose health service does not say yet that it serves.

    Args:
        engine: computes; a `CpuEngine` by default.
        limits: of the server.
        allows: whether a call with this metadata is allowed; all are by default.
        by_token: whether callers are told apart by their tokens, else by their connections.
        slots: how many requests compute at a time.
        receive_bytes: of the largest answer that the channel takes.
        helper_threads: how many calls of other services run at a time.
    """
    limits, metrics = limits or Limits(), Metrics()
    admission = Admission(limits)
    pool = ComputePool(slots)
    answerer = Answerer(
        engine or CpuEngine(), admission, _deadlines, pool, metrics, by_token=by_token
    )
    helpers, deliveries = HelperPool(helper_threads, "helper"), ThreadPool(256, "delivery")
    delivery = Delivery(deliveries)
    streams = MaskStreams(answerer, limits, delivery)
    status = Health((SERVICE_NAME,), helpers, _deadlines, limits.receive_seconds)
    host = Host(answerer, limits, streams, helpers, lambda: status.is_serving)
    service = CassService(answerer, limits, streams, helpers, [open_inference(host)])
    router = Router(service, allows, helpers)
    router.add_registered_method_handlers(health.SERVICE_NAME, status.handlers())
    server = grpc.server(
        cast(ThreadPoolExecutor, MessageFirst(pool, delivery)),
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
    slow_peers = SlowPeers(server, answerer, limits, metrics, service.refused)
    parts = (metrics, admission, streams, status, router, slow_peers)
    try:
        with connect(address, receive_bytes=receive_bytes) as channel:
            stub = cass_pb2_grpc.CassServiceStub(channel)
            yield Running(address, channel, stub, *parts)
    finally:
        status.end()
        assert server.stop(0).wait(LIMIT)
        slow_peers.close()
        helpers.shutdown(wait=False)
        deliveries.shutdown(wait=False)
