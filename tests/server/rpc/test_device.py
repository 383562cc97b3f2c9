"""What becomes of requests that a GPU has no memory, or no compiled kernel, for."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from cass_client import CassClient
from cass_core.inputs import MaskInputs
from cass_core.synthetic import street_boxes
from cass_server.engines.base import CpuEngine
from cass_server.exceptions import DeviceFull, NotCompiled
from tests.server.support.details import fails, retry_delay
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT, Gate, wait_until
from tests.server.support.requests import Stream, mask_request

FULL, NEW = 5, 2
"""Images of the requests that there is no memory, or no kernel, for."""


class FullEngine(CpuEngine):
    """Has no memory for `FULL` images, so many times."""

    small_fill = None

    def __init__(self, times: int) -> None:
        self.times = times

    def masks(self, inputs: MaskInputs, *arrays: Any, **options: Any) -> None:
        """Compute them, or not."""
        if inputs.boxes.num_images == FULL and self.times:
            self.times -= 1
            raise DeviceFull(0.37)
        super().masks(inputs, *arrays, **options)


class NewEngine(CpuEngine):
    """Has to compile for `NEW` images, which the gate holds."""

    small_fill = None

    def __init__(self) -> None:
        self.gate = Gate()
        self.is_compiled = False
        self.computed: list[int] = []

    def masks(self, inputs: MaskInputs, *arrays: Any, **options: Any) -> None:
        """Compute them, or have a kernel compiled first."""
        images = inputs.boxes.num_images
        if images == NEW and not self.is_compiled:
            raise NotCompiled("some_kernel", self._compile)
        self.computed.append(images)
        super().masks(inputs, *arrays, **options)

    def _compile(self) -> None:
        self.gate.wait()
        self.is_compiled = True


def test_full_memory_is_a_refusal_with_a_delay() -> None:
    """Of this one request: nobody else notices."""
    with running(FullEngine(2)) as server:
        with fails("RESOURCE_EXHAUSTED") as caught:
            server.stub.GenerateMask(mask_request(FULL), timeout=LIMIT)
        assert retry_delay(caught.value) == 0.37
        assert "too little memory" in str(caught.value.details())
        assert server.has_room()
        stream = Stream(server.stub, mask_request(FULL))
        entry = next(stream.answers)
        assert entry.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert server.counted()["cass_rejections_total", "memory"] == 2
        server.assert_all_is_given_back()


def test_a_client_comes_again() -> None:
    with running(FullEngine(2)) as server, CassClient(server.address, timeout=LIMIT) as client:
        server.health.set(serving=True)
        boxes = street_boxes(FULL, 2, image_size=(32, 32))
        assert client.generate_mask(boxes, (32, 32), (4, 4)).shape[0] == FULL
        assert server.counted()["cass_rejections_total", "memory"] == 2


def test_nobody_waits_for_a_kernel_of_others() -> None:
    """Although one request is computed at a time; callers for the kernel wait together."""
    engine = NewEngine()
    with running(engine, slots=1) as server:
        waiting = [server.stub.GenerateMask.future(mask_request(NEW), timeout=LIMIT)]
        engine.gate.wait_held()
        waiting.append(server.stub.GenerateMask.future(mask_request(NEW), timeout=LIMIT))
        engine.gate.wait_held()
        for _ in range(3):
            server.stub.GenerateMask(mask_request(1), timeout=LIMIT)
        assert not any(call.done() for call in waiting)
        engine.gate.open()
        for call in waiting:
            assert list(call.result().masks[0].shape) == [NEW, 4, 4]
        assert engine.computed == [1, 1, 1, NEW, NEW]


def test_what_waits_for_a_kernel_in_vain_is_not_computed() -> None:
    engine = NewEngine()
    with running(engine, slots=1) as server:
        call = server.stub.GenerateMask.future(mask_request(NEW), timeout=LIMIT)
        engine.gate.wait_held()
        call.cancel()
        server.wait_in_flight(1)
        ended = threading.Event()
        call.add_done_callback(lambda _: ended.set())
        assert ended.wait(LIMIT)
        # gRPC's server hears of it a moment later.
        server.stub.GenerateMask(mask_request(1), timeout=LIMIT)
        engine.gate.open()
        wait_until(lambda: ("GenerateMask", "CANCELLED") in server.ended())
        server.assert_all_is_given_back()
        assert engine.computed == [1]


@pytest.mark.parametrize("images", [NEW, 1])
def test_streams_too(images: int) -> None:
    engine = NewEngine()
    engine.gate.open()
    with running(engine, slots=1) as server:
        assert Stream(server.stub, mask_request(images)).images() == images
