"""The event loop stays free: what takes long is for threads, and is known to before it is begun.

How long a health check takes meanwhile is for `benchmarks/responsiveness.py` to measure.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core.arrays import Array
from cass_core.masks import MaskInputs
from cass_server import jobs, service
from cass_server import turn as turn_module
from cass_server.admission import Admission
from cass_server.engine import CpuEngine
from cass_server.gate import Gate
from cass_server.health import Health
from cass_server.jobs import read_loss, read_mask
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.turn import Turn
from tests.server.calls import LIMIT
from tests.server.in_thread import behind, service_channel
from tests.server.requests import loss_request, mask_request

QUICK = CpuEngine.quick_effort
LIMITS = Limits()


class Where(CpuEngine):
    """Keeps on which threads it computed."""

    def __init__(self) -> None:
        """Nowhere yet."""
        self.threads: list[str] = []

    def masks(self, inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array]) -> None:
        """Compute them."""
        self.threads.append(threading.current_thread().name)
        super().masks(inputs, masks, owners)


class Held(CpuEngine):
    """Waits before it computes, as the largest requests take long."""

    def __init__(self) -> None:
        """Nothing waits yet."""
        self.waiting = threading.Semaphore(0)
        self.go = threading.Event()

    def masks(self, inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array]) -> None:
        """Wait, and leave the masks as they are."""
        self.waiting.release()
        assert self.go.wait(timeout=LIMIT)


def street(images: int, side: tuple[int, int], boxes: int) -> pb.GenerateMaskRequest:
    """Boxes of a fortieth of the image's sides, some 8 pixels of 320."""
    request = mask_request(images, boxes=boxes)
    request.image_sizes.CopyFrom(pb.ImageSizes(heights=[320], widths=[320]))
    xyxy = np.tile(np.array([100, 100, 108, 108], "<f4"), images * boxes)
    request.boxes.xyxy = xyxy.tobytes()
    request.feature_maps[0].height, request.feature_maps[0].width = side
    return request


def covering(side: tuple[int, int], boxes: int, **spec: Any) -> pb.GenerateMaskRequest:
    """Boxes that cover their one image."""
    request = mask_request(boxes=boxes)
    request.boxes.xyxy = np.tile(np.array([0, 0, 32, 32], "<f4"), boxes).tobytes()
    request.feature_maps[0].height, request.feature_maps[0].width = side
    request.mask_spec.MergeFrom(pb.MaskSpec(**spec))
    return request


QUICK_REQUESTS = {
    "stride 32": street(16, (23, 40), 15),
    "stride 8": street(16, (92, 160), 30),
    "one patch": covering((1, 1), 1000),
}
LONG_REQUESTS = {
    # 2,000 boxes on 8,100 patches each: 16 million values.
    "many boxes": covering((90, 90), 2000),
    "slow formula": covering(
        (90, 90), 60, decay_type=pb.DECAY_TYPE_LINEAR, use_anisotropic_gaussian=False
    ),
    # 16,000 boxes of 700 exponentials, for 700 patches in all.
    "one row": covering((1, 700), 16_000),
    "one column": covering((700, 1), 16_000),
    "boxes alone": covering((1, 1), 16_000),
    "patches alone": covering((1200, 1200), 0),
    "little boxes with much context": covering((90, 90), 2000, expansion_ratio=1e300),
}


@pytest.mark.parametrize("name", QUICK_REQUESTS)
def test_quick_requests_are_computed_on_the_loop(name: str) -> None:
    """Such as loaders send."""
    assert threads_of(QUICK_REQUESTS[name]) == ["event loop"]


@pytest.mark.parametrize("name", LONG_REQUESTS)
def test_long_requests_are_computed_in_threads(name: str) -> None:
    """However small their messages are, all below 256 KiB."""
    request = LONG_REQUESTS[name]
    assert request.ByteSize() < 1 << 18
    (thread,) = threads_of(request)
    assert thread.startswith("ThreadPoolExecutor")


def threads_of(request: pb.GenerateMaskRequest) -> list[str]:
    engine = Where()
    with service_channel(engine) as channel:
        cass_pb2_grpc.CassServiceStub(channel).GenerateMask(request, timeout=LIMIT)
    return engine.threads


@pytest.mark.parametrize(
    "change",
    [
        lambda request: request.feature_maps.add(height=60, width=60),
        lambda request: setattr(request.feature_maps[0], "width", 61),
        lambda request: setattr(request, "return_owner", True),
        lambda request: setattr(request.mask_spec, "merge", pb.MERGE_SUM),
        lambda request: setattr(request.mask_spec, "expansion_ratio", 2),
        lambda request: setattr(request.mask_spec, "min_size", 20),
    ],
)
@pytest.mark.parametrize("boxes", [10, 400])
def test_what_adds_work_adds_effort(
    boxes: int, change: Callable[[pb.GenerateMaskRequest], object]
) -> None:
    """Of boxes that are taken to cover the image, and of many, which are looked at."""
    request = street(1, (60, 60), boxes)
    before = read_mask(request.SerializeToString(), LIMITS).effort
    change(request)
    after = read_mask(request.SerializeToString(), LIMITS).effort
    # A few boxes are taken to cover their image, and reach no further.
    assert after > before or (boxes == 10 and after == before)


def test_a_loss_adds_its_own_effort() -> None:
    request = loss_request(side=64)
    mask = read_mask(request.mask.SerializeToString(), LIMITS).effort
    with_mask = read_loss(request.SerializeToString(), LIMITS).effort
    assert with_mask == mask + 10 * 64 * 64
    request.logits.dtype, request.logits.data = pb.DATA_TYPE_FLOAT64, bytes(8 * 64 * 64)
    assert read_loss(request.SerializeToString(), LIMITS).effort == mask + 32 * 64 * 64


def test_effort_bears_any_numbers() -> None:
    """Those of a request may be as large as its types take."""
    most = float(np.finfo(np.float32).max)
    request = covering((600, 600), 3, expansion_ratio=1e308, min_size=1e308)
    request.boxes.xyxy = np.tile(np.array([-most, -most, most, most], "<f4"), 3).tobytes()
    assert read_mask(request.SerializeToString(), LIMITS).effort > 3 * 600 * 600 / 2


def test_large_messages_are_read_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are read on the loop."""
    threads = []
    original = jobs._parse

    def parse(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return original(*arguments)

    monkeypatch.setattr(jobs, "_parse", parse)
    with service_channel() as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        for boxes in (10_000, 20_000):
            stub.GenerateMask(street(1, (4, 4), boxes), timeout=LIMIT)
    small, large = threads
    assert small == "event loop"
    assert large.startswith("ThreadPoolExecutor")


def test_health_is_told_while_all_threads_compute() -> None:
    """Requests at the limit of patches, as many as there are threads and more."""
    engine, metrics = Held(), Metrics()
    gate, status = Gate(None, metrics, ()), Health(())

    def add(executor: Executor) -> None:
        admission = Admission(LIMITS)
        service.CassService(engine, LIMITS, executor, admission, metrics).add_to(gate)
        health_pb2_grpc.add_HealthServicer_to_server(status, gate)

    with behind(gate, add) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        request = mask_request(side=4096, boxes=64)
        request.dtype = pb.DATA_TYPE_UINT8
        calls = [stub.GenerateMask.future(request, timeout=LIMIT) for _ in range(6)]
        for _ in range(4):
            assert engine.waiting.acquire(timeout=LIMIT)
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            for _ in range(20):
                check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
            assert not any(call.done() for call in calls)
        finally:
            engine.go.set()
        assert [call.code() for call in calls] == [grpc.StatusCode.OK] * 6


def test_a_turn_is_over_once_its_time_is_used() -> None:
    """And begins anew once the loop has been at its sockets."""

    async def turns() -> list[bool]:
        turn = Turn(1e-9)
        was_over = [turn.is_over]
        with turn:
            pass
        was_over.append(turn.is_over)
        await asyncio.sleep(0)
        was_over.append(turn.is_over)
        return was_over

    assert asyncio.run(turns()) == [False, True, False]


def test_a_turn_goes_on_until_its_time_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in it adds up, whatever the loop does in between; by a clock of the test's."""
    clock = 0.0
    monkeypatch.setattr(turn_module.time, "perf_counter", lambda: clock)

    async def ends() -> list[bool]:
        nonlocal clock
        turn, was_over = Turn(1.0), []
        for _ in range(8):
            with turn:
                clock += 0.25
            was_over.append(turn.is_over)
            await asyncio.sleep(0)
            clock += 100.0
        return was_over

    assert asyncio.run(ends()) == [False, False, False, True] * 2


def test_a_turn_counts_what_fails() -> None:
    async def failing() -> bool:
        turn = Turn(1e-9)
        with pytest.raises(ZeroDivisionError), turn:
            raise ZeroDivisionError
        return turn.is_over

    assert asyncio.run(failing()) is True


@pytest.mark.parametrize(
    ("quick_effort", "expected"),
    [(QUICK, ["begin", "compute", "end"]), (0, ["begin", "end", "compute"])],
)
def test_what_is_done_on_the_loop_counts_against_its_turn(
    quick_effort: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a small request, and computing it if that is quick."""
    events = []

    class RecordedTurn(Turn):
        def __enter__(self) -> None:
            events.append("begin")
            super().__enter__()

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            events.append("end")

    monkeypatch.setattr(service, "Turn", RecordedTurn)
    monkeypatch.setattr(Where, "masks", lambda *_: events.append("compute"))
    monkeypatch.setattr(CpuEngine, "quick_effort", quick_effort)
    threads_of(mask_request())
    assert events == expected


def test_what_comes_once_a_turn_is_over_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class OverAtFirst(Turn):
        def __init__(self, seconds: float) -> None:
            super().__init__(seconds)
            self.is_over = True

        async def wait(self) -> None:
            waits.append(self.is_over)
            self.is_over = False

    monkeypatch.setattr(service, "Turn", OverAtFirst)
    threads_of(mask_request())
    assert waits == [True]


def test_who_finds_no_time_waits_for_a_later_turn() -> None:
    async def order() -> list[str]:
        turn, events = Turn(1e-9), []
        with turn:
            asyncio.get_running_loop().call_soon(events.append, "the loop")
        await turn.wait()
        return [*events, "the waiter"]

    assert asyncio.run(order()) == ["the loop", "the waiter"]


# A server that stops as soon as it serves, and tells what a full collection leaves alone.
UNTIL_SERVING = """
import asyncio, gc, os, signal
from cass_server.app import Place, serve
from cass_server.engine import CpuEngine
from cass_server.metrics import Metrics
from cass_server.settings import Settings

def serving(address):
    print(gc.get_freeze_count(), len(gc.get_objects()))
    os.kill(os.getpid(), signal.SIGTERM)

settings = Settings(port=0, device="cpu")
asyncio.run(serve(settings, CpuEngine(), Metrics(), Place(0, shared=False, serving=serving)))
"""


def test_what_is_loaded_is_not_looked_through_for_garbage() -> None:
    """A hundred thousand objects, which would take longer than the largest step of a request."""
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_SERVING],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    frozen, others = map(int, done.stdout.split())
    assert others < frozen / 10


@pytest.mark.parametrize("images", [LIMITS.images, 100_000])
def test_no_honest_request_is_too_bulky(images: int) -> None:
    """The most images, each of a size of its own, and maps, with numbers as long as they get."""
    limits, largest = Limits(images=images), 2**31 - 1
    request = pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            counts=[0] * (images - 1) + [limits.boxes], xyxy=bytes(16 * limits.boxes)
        ),
        image_sizes=pb.ImageSizes(heights=[largest] * images, widths=[largest] * images),
        feature_maps=[pb.FeatureMap(height=largest, width=1)] * limits.feature_maps,
        mask_spec=pb.MaskSpec(patch_size=largest, base_sigma=[0.5, 0.5]),
    )
    job = read_mask(request.SerializeToString(), limits)
    assert job.work == (images, limits.boxes, images * limits.feature_maps)
