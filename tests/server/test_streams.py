"""StreamMasks: one answer for each request, in their order, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core import MaskSpec, generate_mask
from cass_core.arrays import Array
from cass_core.masks import MaskInputs
from cass_server.engine import CpuEngine
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from tests.server.calls import LIMIT, Writer, in_flight, requests_counted, wait_until
from tests.server.engines import FAILING, Held
from tests.server.in_thread import service, service_channel
from tests.server.requests import mask_request

LIMITS = Limits(images=6, patches=3 << 20)
DTYPES = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "uint8": pb.DATA_TYPE_UINT8,
}


class Watched(CpuEngine):
    """Keeps which threads computed, and how many did at a time; fails for some requests."""

    def __init__(self) -> None:
        """Nothing was computed yet."""
        self.calls = 0
        self.threads: list[str] = []
        self.most_at_a_time = 0
        self._at_a_time = 0
        self._lock = threading.Lock()

    def masks(self, inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array]) -> None:
        """Compute them."""
        with self._lock:
            self.calls += 1
            self.threads.append(threading.current_thread().name)
            self._at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_a_time)
        try:
            if inputs.boxes.num_images == FAILING:
                raise ZeroDivisionError("a secret of the inside")
            super().masks(inputs, masks, owners)
        finally:
            with self._lock:
                self._at_a_time -= 1


def entry(request: pb.GenerateMaskRequest) -> pb.StreamMasksRequest:
    return pb.StreamMasksRequest(request=request)


def good(images: int, side: int, dtype: str, *, owners: bool = False) -> pb.GenerateMaskRequest:
    request = mask_request(images, side, maps=2, boxes=3)
    request.dtype = DTYPES[dtype]
    request.return_owner = owners
    return request


def changed(**fields: Any) -> pb.GenerateMaskRequest:
    request = mask_request()
    request.MergeFrom(pb.GenerateMaskRequest(**fields))
    return request


class Sent(NamedTuple):
    """What goes into a stream, and the error that comes out: code, field, reason, message."""

    data: bytes
    error: tuple[int, str, str, str] | None = None


def refused(data: bytes | Message, field: str, reason: str) -> Sent:
    data = data if isinstance(data, bytes) else data.SerializeToString()
    return Sent(data, (3, field, reason, f"{field}: {reason}"))


GOOD = [
    Sent(entry(good(*options)).SerializeToString())
    for options in [
        (1, 4, "float32"),
        (3, 32, "uint8"),
        (2, 300, "float16"),
        (1, 1, "uint8"),
        (4, 512, "float32"),
        (0, 8, "float32"),
    ]
]
GOOD.append(Sent(entry(good(2, 16, "float32", owners=True)).SerializeToString()))
NOT_FINITE = changed()
NOT_FINITE.boxes.xyxy = np.array([8, 8, np.nan, 24], "<f4").tobytes()
BAD = {
    "not a message": refused(b"\xff", "request", "is not a cass.v1.StreamMasksRequest"),
    "nothing in it": refused(b"", "feature_map", "is missing"),
    "unknown dtype": refused(
        entry(changed(dtype=99)),
        "dtype",
        "must be one of float32, float16, bfloat16, uint8, got the unknown value 99",
    ),
    "unknown merge": refused(
        entry(changed(mask_spec=pb.MaskSpec(merge=7))),
        "mask_spec.merge",
        "has the unknown value 7",
    ),
    "too many images": refused(
        entry(mask_request(images=7)), "boxes.counts", "7 images, the server's limit is 6"
    ),
    "too many patches": refused(
        entry(mask_request(side=2000)),
        "feature_map",
        "4000000 patches, the server's limit is 3145728",
    ),
    "not a number": refused(entry(NOT_FINITE), "boxes[0][0].x2", "is not finite (nan)"),
    "too much else": refused(
        bytes([15 << 3, 0]) * 100_000,
        "request",
        "has 200000 bytes beside its boxes and tensors, the server's limit is 65888",
    ),
    "failing": Sent(
        entry(mask_request(images=FAILING)).SerializeToString(),
        (13, "", "", "internal error; see the server's log"),
    ),
}


def raw_stream(channel: grpc.Channel, sent: Sequence[Sent]) -> list[bytes]:
    """The answers to requests that may be no messages."""
    call: Any = channel.stream_stream("/cass.v1.CassService/StreamMasks")
    return list(call(iter([each.data for each in sent]), timeout=LIMIT))


def expected_masks(data: bytes) -> pb.GenerateMaskResponse:
    """What a local call answers, laid out by protobuf."""
    request = pb.StreamMasksRequest.FromString(data).request
    xyxy = np.frombuffer(request.boxes.xyxy, "<f4").reshape(-1, 4)
    found = generate_mask(
        np.split(xyxy, np.cumsum(request.boxes.counts)[:-1]) if request.boxes.counts else [],
        (32, 32),
        [(level.height, level.width) for level in request.feature_maps],
        MaskSpec(patch_size=1),
        dtype=next(name for name, number in DTYPES.items() if number == request.dtype),
        return_owner=request.return_owner,
    )
    masks, owners = found if request.return_owner else (found, [])
    return pb.GenerateMaskResponse(
        masks=[tensor(mask, request.dtype) for mask in masks],
        owners=[tensor(owner, pb.DATA_TYPE_INT32) for owner in owners],
    )


def tensor(array: Array, dtype: int) -> pb.Tensor:
    return pb.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


EXPECTED = {each.data: expected_masks(each.data) for each in GOOD}


def check(sent: Sequence[Sent], answers: Sequence[bytes]) -> None:
    assert len(answers) == len(sent)
    for each, data in zip(sent, answers, strict=True):
        answer = pb.StreamMasksResponse.FromString(data)
        if each.error is None:
            assert answer.WhichOneof("result") == "masks"
            assert answer.masks == EXPECTED[each.data]
        else:
            assert answer.WhichOneof("result") == "error"
            error = answer.error
            assert (error.code, error.field, error.reason, error.message) == each.error


def test_answers_are_in_the_order_of_requests() -> None:
    """Some are computed on the event loop and some in threads; all as by a local call."""
    engine = Watched()
    sent = GOOD + GOOD[::-1] + GOOD
    with service_channel(engine, LIMITS) as channel:
        check(sent, raw_stream(channel, sent))
    assert engine.calls == len(sent)
    assert engine.most_at_a_time == 1
    assert 0 < engine.threads.count("event loop") < engine.calls


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_has_an_error_and_the_stream_goes_on(kind: str) -> None:
    sent = [GOOD[0], BAD[kind], BAD[kind], GOOD[1]]
    with service_channel(Watched(), LIMITS) as channel:
        check(sent, raw_stream(channel, sent))


@pytest.fixture(scope="module")
def shared_channel() -> Iterator[grpc.Channel]:
    with service_channel(Watched(), LIMITS) as channel:
        yield channel


@given(sent=st.lists(st.sampled_from([*GOOD, *BAD.values()]), max_size=12))
@settings(max_examples=30)
def test_any_sequence_has_its_answers(shared_channel: grpc.Channel, sent: list[Sent]) -> None:
    check(sent, raw_stream(shared_channel, sent))


def test_same_bytes_as_single_calls() -> None:
    """bfloat16 too, which only torch has; both ways on from the bytes of the answer are one."""
    requests = [pb.StreamMasksRequest.FromString(each.data).request for each in GOOD]
    requests.append(changed(dtype=pb.DATA_TYPE_BFLOAT16))
    with service() as stub:
        streamed = list(stub.StreamMasks(map(entry, requests), timeout=LIMIT))
        single = [stub.GenerateMask(request, timeout=LIMIT) for request in requests]
    assert [answer.masks for answer in streamed] == single


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Answers of a MiB: what lies between the two ends is some MiB, whatever is asked for."""
    count, engine = 400, Watched()
    written = threading.Event()

    def requests() -> Iterator[pb.StreamMasksRequest]:
        for _ in range(count):
            yield entry(mask_request(side=512))
        written.set()

    with service_channel(engine) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        answers = stub.StreamMasks(requests(), timeout=LIMIT)
        assert calls_when_stuck(stub, engine) < count // 4
        # They are small enough to be written all the same, into the buffers in between.
        assert written.wait(timeout=LIMIT)
        assert sum(answer.WhichOneof("result") == "masks" for answer in answers) == count
    assert engine.calls == count


def calls_when_stuck(stub: Any, engine: Watched) -> int:
    """How often the engine has computed, once it does so no more."""
    calls = -1
    while engine.calls != calls or not calls:
        calls = engine.calls
        # The server has had its time when other calls were answered meanwhile.
        for _ in range(50):
            stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
    return calls


@pytest.mark.parametrize("size", ["larger than the client takes", "never read"])
def test_a_client_that_goes_is_no_error_of_ours(
    size: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While an answer is being written: gRPC would log that as an error, with a traceback."""
    engine, metrics = Watched(), Metrics()
    side = 2048 if size != "never read" else 512
    with service(engine, metrics=metrics, receive_bytes=4 << 20) as stub:
        requests = [entry(mask_request(side=side)) for _ in range(100)]
        answers = stub.StreamMasks(iter(requests), timeout=LIMIT)
        if size == "never read":
            calls_when_stuck(stub, engine)
            answers.cancel()
        with pytest.raises(grpc.RpcError, match=r"CANCELLED|RESOURCE_EXHAUSTED"):
            list(answers)
        wait_until(lambda: in_flight(metrics) == 0)
    assert caplog.records == []
    assert requests_counted(metrics)["StreamMasks", "CANCELLED"] == 1


def test_half_close_and_the_end() -> None:
    """What was asked for before the client's end is answered, and then the call ends well."""
    writer: Writer[pb.StreamMasksRequest] = Writer()
    with service() as stub:
        answers = stub.StreamMasks(iter(writer), timeout=LIMIT)
        for images in (1, 2):
            writer.write(entry(mask_request(images)))
            assert list(next(answers).masks.masks[0].shape) == [images, 4, 4]
        writer.write(entry(mask_request(3)))
        writer.close()
        assert [list(answer.masks.masks[0].shape) for answer in answers] == [[3, 4, 4]]
        assert answers.code() is grpc.StatusCode.OK


def test_an_empty_stream_has_no_answers() -> None:
    metrics = Metrics()
    with service(metrics=metrics) as stub:
        answers = stub.StreamMasks(iter(()), timeout=LIMIT)
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK
    assert requests_counted(metrics) == {}


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_a_stream_given_up_gives_its_place_back(way: str) -> None:
    """Though the thread still computes for it, the one place is there for others."""
    engine, metrics = Held(), Metrics()
    with service(engine, Limits(requests_in_flight=1), metrics) as stub:
        timeout = LIMIT if way == "cancel" else 0.5
        answers = stub.StreamMasks(iter([entry(mask_request(images=2))]), timeout=timeout)
        try:
            if way == "cancel":
                assert engine.waiting.acquire(timeout=LIMIT)
                with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                    stub.GenerateMask(mask_request(), timeout=LIMIT)
                answers.cancel()
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            expected = "CANCELLED" if way == "cancel" else "DEADLINE_EXCEEDED"
            assert caught.value.code().name == expected
            wait_for_a_place(stub)
        finally:
            engine.go.set()
    counted = requests_counted(metrics)
    assert counted["StreamMasks", "CANCELLED"] == 1
    assert counted["GenerateMask", "OK"] == 1


def wait_for_a_place(stub: Any) -> None:
    """Ask until there is room for one request."""

    def is_room() -> bool:
        call = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        code = call.code()
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        return code is grpc.StatusCode.OK

    wait_until(is_room)


def test_streams_do_not_wait_for_each_other() -> None:
    engine = Held()
    first: Writer[pb.StreamMasksRequest] = Writer()
    second: Writer[pb.StreamMasksRequest] = Writer()
    with service(engine) as stub:
        held = stub.StreamMasks(iter(first), timeout=LIMIT)
        free = stub.StreamMasks(iter(second), timeout=LIMIT)
        first.write(entry(mask_request(images=2)))
        assert engine.waiting.acquire(timeout=LIMIT)
        for images in (1, 3, 4):
            second.write(entry(mask_request(images)))
            assert list(next(free).masks.masks[0].shape) == [images, 4, 4]
        engine.go.set()
        first.write(entry(mask_request(images=1)))
        first.close()
        second.close()
        assert [answer.masks.masks[0].shape[0] for answer in held] == [2, 1]
        assert list(free) == []
