"""Arrays are read in the bytes received; nothing of an ended request is kept; memory is."""

from __future__ import annotations

import contextlib
import gc
import logging
import platform
import statistics
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass.codec.encode import loss_request as loss_message
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec
from cass_core.arrays import Array
from cass_core.errors import InvalidRequest
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_server.engines.base import Checkpoint, CpuEngine
from tests.server.support.details import fails
from tests.server.support.in_thread import running
from tests.server.support.load import connect
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.requests import Stream, loss_request, mask_request
from tests.support.servers import ServerProcess, serving

pytestmark = pytest.mark.slow

SERVICE = "/cass.v1.CassService"


class Recording(CpuEngine):
    """Keeps the arrays that it is given, or only watches them, or fails.

    Args:
        keep: whether to keep them.
        error: what to raise instead of computing.
    """

    small_fill = None

    def __init__(self, *, keep: bool = True, error: type[Exception] | None = None) -> None:
        self.read: list[Array] = []
        self.messages: list[bytes] = []
        self.watched: list[weakref.ref[Any]] = []
        self._keep = keep
        self._error = error

    def _take(self, *arrays: Any) -> None:
        self.watched += map(weakref.ref, arrays)
        if self._keep:
            self.read += map(np.asarray, arrays)
        if self._error is not None:
            raise self._error("field", "of the test")

    def masks(self, inputs: MaskInputs, *arrays: Any, checkpoint: Checkpoint = None) -> None:
        self.messages.append(owner_of(inputs.boxes.xyxy))
        self._take(inputs.boxes.xyxy)
        for filled in arrays:
            self.watched += map(weakref.ref, filled)
        super().masks(inputs, *arrays, checkpoint=checkpoint)

    def losses(self, inputs: LossInputs, checkpoint: Checkpoint = None) -> HostLoss:
        mask = [] if inputs.mask is None else [inputs.mask.boxes.xyxy]
        target = [] if inputs.target is None else [inputs.target]
        self._take(inputs.logits, *target, *mask)
        result = super().losses(inputs, checkpoint)
        if result.grad is not None:
            self.watched.append(weakref.ref(result.grad))
        return result


def owner_of(array: Any) -> bytes:
    """The bytes that an array is a view of."""
    while not isinstance(array, bytes):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


def read_by(method: str, data: bytes) -> list[Array]:
    """What the engine reads in a call with these bytes."""
    engine = Recording()
    with running(engine) as server:
        list(server.channel.stream_stream(f"{SERVICE}/{method}")(iter([data]), timeout=LIMIT))
    return engine.read


# Messages from 32 KiB on are read as views.
@pytest.mark.parametrize("boxes", [2100, 20_000])
@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
def test_boxes_are_read_where_they_were_received(boxes: int, method: str) -> None:
    request: Any = mask_request(boxes=boxes)
    if method == "StreamMasks":
        request = pb.StreamMasksRequest(request=request)
    data = request.SerializeToString()
    (xyxy,) = read_by(method, data)
    assert owner_of(xyxy) == data


def test_tensors_are_read_where_they_were_received() -> None:
    """Such as the client sends; what lies across the machine's words is copied once."""
    logits = np.zeros((2, 64, 64), np.float32)
    data = loss_message(LossInputs.check(logits, logits, LossSpec(), None, return_grad=True))
    logits, target = read_by("ComputeLoss", data)
    assert owner_of(logits) is owner_of(target)
    assert owner_of(logits) == data
    assert not np.shares_memory(logits, target)


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Bytes of Python's objects, of the client in this process too; what is garbage stays."""
    logging.disable(logging.ERROR)  # records of errors hold all that the errors came through
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
        logging.disable(logging.NOTSET)


LARGE_MASK = mask_request(side=256, boxes=20_000)
LARGE_MASK.boxes.xyxy = bytes(16 * 20_000)  # as small as boxes get
LARGE_LOSS = loss_request(side=300)
BROKEN = mask_request(side=256, boxes=20_000)
BROKEN.boxes.counts[0] += 1


def assert_keeps_nothing(run: Callable[[], None], engine: Recording) -> None:
    """Run twice: after it there is as much memory in use again, without help of the collector.

    And nobody refers to any array of the engine's, or message, but for the list that keeps these.
    """
    with traced() as held:
        run()  # whatever is loaded or kept once
        before, kept = held(), sum(map(len, engine.messages))
        run()
        kept = sum(map(len, engine.messages)) - kept
        wait_until(lambda: held() < before + kept + (1 << 17))
        assert [reference() for reference in engine.watched if reference() is not None] == []
        # The list's reference, and that of the call itself.
        messages = range(len(engine.messages))
        wait_until(lambda: all(sys.getrefcount(engine.messages[i]) == 2 for i in messages))


@pytest.mark.parametrize(
    ("method", "request_", "error", "code"),
    [
        ("GenerateMask", LARGE_MASK, None, "OK"),
        ("GenerateMask", LARGE_MASK, ZeroDivisionError, "INTERNAL"),
        ("GenerateMask", BROKEN, None, "INVALID_ARGUMENT"),
        ("ComputeLoss", LARGE_LOSS, None, "OK"),
        ("ComputeLoss", LARGE_LOSS, InvalidRequest, "INVALID_ARGUMENT"),
    ],
)
def test_nothing_of_a_request_is_kept(
    method: str, request_: Any, error: type[Exception] | None, code: str
) -> None:
    """Neither its message nor its arrays nor its answer, by any thread of the server that idles."""
    engine = Recording(keep=False, error=error)
    data = request_.SerializeToString()
    assert len(data) > 1 << 18
    with running(engine) as server:
        ask: Callable[..., Any] = server.channel.unary_unary(f"{SERVICE}/{method}")

        def ask_often() -> None:
            for _ in range(6):  # more than there are threads
                with fails(code) if code != "OK" else contextlib.nullcontext():
                    ask(data, timeout=LIMIT)

        assert_keeps_nothing(ask_often, engine)


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_a_stream_that_waits_keeps_nothing(error: type[Exception] | None) -> None:
    engine = Recording(keep=False, error=error)
    with running(engine) as server:
        stream = Stream(server.stub)

        def ask_often() -> None:
            for _ in range(3):
                stream.ask(LARGE_MASK)
                next(stream.answers)

        assert_keeps_nothing(ask_often, engine)


MIB = 1 << 20
LARGE = 8 * MIB
# Refused for what they hold beside boxes and tensors, and for the dtype in the last field.
BAD = {
    "unknown fields": b"\x78\x00" * (LARGE // 2),
    "counts": b"\x0a\x86\x80\x80\x04\x12\x80\x80\x80\x04" + bytes(LARGE),
    "boxes": mask_request(images=2, boxes=LARGE // 64).SerializeToString() + b"\x28\x63",
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", ["GenerateMask", "GetServerInfo"])
def test_a_refused_message_is_not_kept(method: str, bad: str) -> None:
    """gRPC keeps a call that was aborted until the garbage is collected."""
    data = BAD[bad]
    with running() as server, traced() as held:
        call = server.channel.unary_unary(f"{SERVICE}/{method}")
        before = held()
        for _ in range(6):
            with fails("INVALID_ARGUMENT"):
                call(data, timeout=LIMIT)
        wait_until(lambda: held() - before < len(data))


def faults(server: ServerProcess) -> int:
    """Minor page faults of a process until now."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])


# Of 16 masks of 92x160 patches: an answer of 942 kB, 230 pages.
STRIDE_8 = mask_request(images=16, boxes=30)
STRIDE_8.feature_maps[0].height, STRIDE_8.feature_maps[0].width = 92, 160


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="what is kept, and how, is known of glibc alone",
)
def test_answers_take_no_new_memory() -> None:
    """Nor do large ones, of 8,789 pages, which malloc maps anew as it is, as gRPC's copies."""
    with serving() as server, connect(server.address) as channel:
        make = channel.unary_unary(f"{SERVICE}/GenerateMask")

        def faults_of(request: pb.GenerateMaskRequest, warm_up: int, requests: int) -> float:
            """Of one request, by the median: gRPC starts and ends a thread now and then."""
            data = request.SerializeToString()
            for _ in range(warm_up):
                make(data, timeout=LIMIT)
            taken = []
            for _ in range(5):
                before = faults(server)
                for _ in range(requests):
                    make(data, timeout=LIMIT)
                taken.append((faults(server) - before) / requests)
            return statistics.median(taken)

        assert faults_of(STRIDE_8, warm_up=100, requests=50) < 1
        assert faults_of(mask_request(side=3000), warm_up=5, requests=3) < 100
