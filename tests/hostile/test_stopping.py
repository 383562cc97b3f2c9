"""SIGTERM while peers vanish, or read slowly: what was accepted is answered all the same."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any

import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.hostile.support.scene import under_attack
from tests.server.support.load import connect, is_answer, numbered_request
from tests.server.support.observed import complaints
from tests.server.support.processes import LIMIT
from tests.server.support.slow_link import slow_link
from tests.support.programs import running_program

Record = Callable[[str, Any], None]

STREAMING = """
    import itertools, sys, threading
    from cass_client import CassClient
    from tests.client.support.faults import request

    def stream():
        with CassClient(sys.argv[1], timeout=60) as client:
            for _ in client.stream_masks(map(request, itertools.count()), in_flight=8):
                begun.release()

    begun = threading.Semaphore(0)
    for _ in range(8):
        threading.Thread(target=stream, daemon=True).start()
    for _ in range(100):
        begun.acquire()
    print("streaming", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_streaming_clients_killed_just_before_the_signal(
    workers: str, record_property: Record
) -> None:
    """Each time in another moment of the streams: four clients of eight streams each."""
    attack = f"four streaming clients killed before SIGTERM, {workers} workers"
    with under_attack(record_property, attack, "--workers", workers) as scene:
        asked = [numbered_request(number, images=8, side=1024) for number in range(4)]
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(running_program(STREAMING, scene.address)) for _ in range(4)
            ]
            channel = stack.enter_context(connect(scene.address))
            stub = cass_pb2_grpc.CassServiceStub(channel)
            stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            scene.good.wait_more()
            scene.stop_good()
            accepted = [stub.GenerateMask.future(request, timeout=LIMIT) for request in asked]
            # Calls of a connection are taken in their order.
            stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            for client in clients:
                client.kill()
            scene.server.process.send_signal(signal.SIGTERM)
            for number, call in enumerate(accepted):
                assert is_answer(call.result(timeout=LIMIT), number, 8, 1024)
            assert scene.server.process.wait(LIMIT) == 0
        assert complaints(scene.server) == []


def test_a_reader_of_a_megabyte_a_second(record_property: Record) -> None:
    """While others are answered, and after SIGTERM: as slow as a link between continents."""
    images, side = 8, 988
    with (
        under_attack(record_property, "7.8 MB to a reader of 1 MB/s at SIGTERM") as scene,
        slow_link(scene.address, 1e6) as link,
        connect(link.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        call = stub.GenerateMask.future(numbered_request(7, images, side), timeout=LIMIT)
        while link.carried < 1_000_000:
            scene.good.wait_more(10)
        scene.stop_good()
        scene.server.process.send_signal(signal.SIGTERM)
        assert is_answer(call.result(timeout=LIMIT), 7, images, side)
        assert scene.server.process.wait(LIMIT) == 0
        assert complaints(scene.server) == []
