"""Arrays are computed in the bytes that are sent and read in those received; memory is kept."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cass.frames import loss_request as loss_message
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec
from cass_core.arrays import Array
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_core.masks import MaskInputs
from cass_server.engine import CpuEngine
from cass_server.gate import Gate, Handler
from cass_server.jobs import read_stream_mask
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from tests.server.in_thread import service_channel
from tests.server.requests import loss_request, mask_request
from tests.servers import ServerProcess, serving

LIMIT = 60.0
SERVICE = "/cass.v1.CassService"
RECEIVE_ANY = (("grpc.max_receive_message_length", -1),)
UNKEPT = Path(__file__).with_name("unkept_server.py")
# Messages from 32 KiB on are read as views; from 256 KiB on in a thread.
MANY_BOXES = [2100, 20_000]


class Recording(CpuEngine):
    """Keeps the arrays that it is given."""

    def __init__(self) -> None:
        """Nothing was given yet."""
        self.read: list[Array] = []
        self.written: list[Array] = []

    def masks(self, inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array]) -> None:
        """Compute them."""
        self.read.append(np.asarray(inputs.boxes.xyxy))
        self.written += [*masks, *owners]
        super().masks(inputs, masks, owners)

    def losses(self, inputs: LossInputs, loss: Array, grad: Array | None) -> HostLoss:
        """Compute them."""
        self.read.append(inputs.logits)
        if inputs.target is not None:
            self.read.append(inputs.target)
        if inputs.mask is not None:
            self.read.append(np.asarray(inputs.mask.boxes.xyxy))
        assert grad is not None
        self.written += [loss, grad]
        return super().losses(inputs, loss, grad)


class RecordingGate(Gate):
    """Keeps the very bytes that handlers return."""

    def __init__(self) -> None:
        """Open to all."""
        super().__init__(None, Metrics(), ())
        self.returned: list[bytes] = []

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add them, each in a wrapper."""
        recorded = {
            name: grpc.stream_unary_rpc_method_handler(self._recorded(handler))
            for name, handler in handlers.items()
            if not handler.response_streaming
        }
        super().add_registered_method_handlers(service, recorded)

    def _recorded(self, handler: Handler) -> Any:
        async def answer(requests: Any, context: Any) -> bytes:
            message: bytes = await handler.stream_unary(requests, context)
            self.returned.append(message)
            return message

        return answer


def call(method: str, data: bytes) -> tuple[Recording, bytes]:
    """The engine after a call with these bytes, and the bytes that the handler returned."""
    engine, gate = Recording(), RecordingGate()
    with service_channel(engine, gate=gate) as channel:
        answer = channel.unary_unary(f"{SERVICE}/{method}")(data, timeout=LIMIT)
    (returned,) = gate.returned
    assert answer == returned
    return engine, returned


def assert_within(arrays: Sequence[Array], message: bytes, count: int) -> None:
    """Each of so many arrays lies in the bytes of the message, apart from the others."""
    assert len(arrays) == count
    whole = np.frombuffer(message, np.uint8)
    start = whole.__array_interface__["data"][0]
    for array in arrays:
        begin = array.__array_interface__["data"][0]
        assert start <= begin <= begin + array.nbytes <= start + len(message)
    assert all(np.shares_memory(array, whole) for array in arrays)
    assert not any(
        np.shares_memory(array, other) for i, array in enumerate(arrays) for other in arrays[:i]
    )


def owner_of(array: Any) -> bytes:
    """The bytes that an array is a view of."""
    while not isinstance(array, bytes):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_UINT8])
@pytest.mark.parametrize("side", [16, 1024])
def test_masks_are_computed_in_the_bytes_that_are_sent(side: int, dtype: int) -> None:
    """On the event loop and in a thread."""
    request = mask_request(side=side, maps=2)
    request.dtype, request.return_owner = dtype, True
    engine, returned = call("GenerateMask", request.SerializeToString())
    assert_within(engine.written, returned, 4)
    answer = pb.GenerateMaskResponse.FromString(returned)
    sent = [tensor.data for tensor in (*answer.masks, *answer.owners)]
    assert [array.tobytes() for array in engine.written] == sent


def test_a_gradient_is_computed_in_the_bytes_that_are_sent() -> None:
    engine, returned = call("ComputeLoss", loss_request(images=2, side=64).SerializeToString())
    loss, grad = engine.written
    assert_within([loss, grad], returned, 2)
    assert pb.ComputeLossResponse.FromString(returned).grad.data == grad.tobytes()


def test_a_stream_likewise() -> None:
    request = pb.StreamMasksRequest(request=mask_request(side=16, maps=2, boxes=2100))
    data, engine = request.SerializeToString(), Recording()
    job = read_stream_mask(data, Limits())
    assert_within(engine.written, job.fill(job.lay_out(), engine), 2)
    assert owner_of(engine.read[0]) is data


@pytest.mark.parametrize("boxes", MANY_BOXES)
def test_boxes_are_read_where_they_were_received(boxes: int) -> None:
    data = mask_request(boxes=boxes).SerializeToString()
    engine, _ = call("GenerateMask", data)
    (xyxy,) = engine.read
    received = owner_of(xyxy)
    assert received == data
    assert_within([xyxy], received, 1)


def test_tensors_are_read_where_they_were_received() -> None:
    """Such as the client sends; what lies across the machine's words is copied once."""
    logits = np.zeros((2, 64, 64), np.float32)
    data = loss_message(LossInputs.check(logits, logits, LossSpec(), None, return_grad=True))
    engine, _ = call("ComputeLoss", data)
    received = owner_of(engine.read[0])
    assert received == data
    assert_within(engine.read, received, 2)


def stride_8() -> bytes:
    """The request for 16 masks of 92x160 patches: an answer of 942 kB, 230 pages."""
    request = mask_request(images=16, boxes=30)
    request.feature_maps[0].height, request.feature_maps[0].width = 92, 160
    return request.SerializeToString()


def faults(server: ServerProcess) -> int:
    """Minor page faults of a process until now."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])


def faults_of(program: Sequence[str], data: bytes, warm_up: int, requests: int) -> float:
    """Of one request, by the median over blocks: gRPC starts and ends a thread now and then."""
    taken = []
    with (
        serving(program=program) as server,
        grpc.insecure_channel(server.address, RECEIVE_ANY) as channel,
    ):
        make = channel.unary_unary(f"{SERVICE}/GenerateMask")
        for _ in range(warm_up):
            make(data, timeout=LIMIT)
        for _ in range(5):
            before = faults(server)
            for _ in range(requests):
                make(data, timeout=LIMIT)
            taken.append((faults(server) - before) / requests)
    return statistics.median(taken)


KEPT = ("-m", "cass_server", "serve")
ON_GLIBC = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="what is kept, and how, is known of glibc alone",
)


@ON_GLIBC
def test_an_answer_of_a_megabyte_takes_no_new_memory() -> None:
    assert faults_of(KEPT, stride_8(), warm_up=100, requests=50) < 1


@ON_GLIBC
@pytest.mark.parametrize(
    ("program", "bounds"), [(KEPT, (0, 100)), ((str(UNKEPT), "serve"), (10_000, 50_000))]
)
def test_nor_does_a_large_one(program: Sequence[str], bounds: tuple[int, int]) -> None:
    """36 MB, 8,789 pages: as malloc is, it maps them anew, and gRPC's copy of them likewise."""
    data = mask_request(side=3000).SerializeToString()
    least, most = bounds
    assert least <= faults_of(program, data, warm_up=5, requests=3) <= most
