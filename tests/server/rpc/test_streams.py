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
from cass_core.inputs import MaskInputs
from cass_server.config.limits import Limits
from cass_server.engines.base import Checkpoint, CpuEngine
from cass_server.observability.metrics import Metrics
from tests.server.support.calls import Writer, counted, in_flight, requests_counted
from tests.server.support.details import told
from tests.server.support.engines import FAILING, HELD, Held
from tests.server.support.in_thread import Running, connected, running, service, service_channel
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import (
    HEADERS,
    RST_STREAM,
    Connection,
    call,
    data_frames,
    frames,
    opening,
    prefixed,
)
from tests.server.support.requests import mask_request

LIMITS = Limits(images=6, patches=3 << 20)
DTYPES = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "uint8": pb.DATA_TYPE_UINT8,
}


class Watched(CpuEngine):
    """Keeps how many requests were computed at a time; fails for some."""

    small_fill = None

    def __init__(self) -> None:
        """Nothing was computed yet."""
        self.calls = 0
        self.most_at_a_time = 0
        self._at_a_time = 0
        self._lock = threading.Lock()

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Checkpoint = None,
    ) -> None:
        """Compute them."""
        with self._lock:
            self.calls += 1
            self._at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_a_time)
        try:
            if inputs.boxes.num_images == FAILING:
                raise ZeroDivisionError("a secret of the inside")
            super().masks(inputs, masks, owners, checkpoint)
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
    """All as by a local call."""
    engine = Watched()
    sent = GOOD + GOOD[::-1] + GOOD
    with service_channel(engine, LIMITS) as channel:
        check(sent, raw_stream(channel, sent))
    assert engine.calls == len(sent)
    assert engine.most_at_a_time == 1


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
    # The one whose answer was being written, and maybe one that was received meanwhile.
    assert 1 <= requests_counted(metrics)["StreamMasks", "CANCELLED"] <= 2


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


# Of two images, some 512 KiB.
LARGE = 256


@pytest.mark.parametrize("way", ["cancel", "deadline"])
@pytest.mark.parametrize("side", [4, LARGE])
def test_a_stream_given_up_while_it_computes_gives_all_back(side: int, way: str) -> None:
    """The one place to compute in, and the bytes; once the engine has done with them."""
    engine = Held()
    with (
        running(engine, Limits(streams=1), slots=1) as server,
        connected(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        timeout = LIMIT if way == "cancel" else 1
        answers = stub.StreamMasks(iter([entry(mask_request(HELD, side))]), timeout=timeout)
        assert engine.waiting.acquire(timeout=LIMIT)
        if way == "cancel":
            answers.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        expected = "CANCELLED" if way == "cancel" else "DEADLINE_EXCEEDED"
        assert caught.value.code().name == expected
        engine.go.set()
        wait_until(lambda: in_flight(server.metrics) == 0)
        assert requests_counted(server.metrics) == {("StreamMasks", "CANCELLED"): 1}
        assert_no_bytes(server)
        assert len(stub.GenerateMask(mask_request(), timeout=LIMIT).masks) == 1
        wait_until(lambda: asks_one(stub))


def assert_no_bytes(server: Running) -> None:
    """Nothing is held: there is room for more than there is room for, as for one alone."""
    assert server.admission.try_hold(1 << 60)
    server.admission.drop(1 << 60)


def asks_one(stub: Any) -> bool:
    """Whether there is room for a stream."""
    try:
        return len(list(stub.StreamMasks(iter([entry(mask_request())]), timeout=LIMIT))) == 1
    except grpc.RpcError as error:
        told(error)
        return False


@pytest.mark.parametrize("kind", ["answered", "failing", "refused"])
def test_bytes_are_given_back(kind: str) -> None:
    engine = Held()
    engine.go.set()
    images = {"answered": 1, "failing": FAILING, "refused": 1}[kind]
    request = mask_request(images, LARGE)
    if kind == "refused":
        request.boxes.counts[0] += 1
    with running(engine) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        for answer in stub.StreamMasks(iter([entry(request)] * 3), timeout=LIMIT):
            assert answer.WhichOneof("result") == ("masks" if kind == "answered" else "error")
        wait_until(lambda: in_flight(server.metrics) == 0)
        assert_no_bytes(server)


@pytest.mark.parametrize("most", [1, 5])
def test_one_stream_more_than_the_limit_is_refused(most: int) -> None:
    """And has room once another one has ended."""
    metrics = Metrics()
    writers: list[Writer[pb.StreamMasksRequest]] = [Writer() for _ in range(most)]
    with service(None, Limits(streams=most), metrics) as stub:
        open_ones = [stub.StreamMasks(iter(writer), timeout=LIMIT) for writer in writers]
        for writer, answers in zip(writers, open_ones, strict=True):
            writer.write(entry(mask_request()))
            assert next(answers).WhichOneof("result") == "masks"
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.StreamMasks(iter(()), timeout=LIMIT))
        assert told(caught.value) == (f"the server is full: {most} streams in flight at most", 1.0)
        assert len(stub.GenerateMask(mask_request(), timeout=LIMIT).masks) == 1
        for writer in writers:
            writer.close()
        assert [list(answers) for answers in open_ones] == [[]] * most
        wait_until(lambda: asks_one(stub))
    assert counted(metrics)["cass_rejections_total", "streams"] >= 1


def test_a_burst_of_streams_is_held_to_the_limit() -> None:
    """They come in one piece, while the threads of those before them are idle."""
    most, more = 4, 36
    with running(limits=Limits(streams=most)) as server, Connection(server.address) as client:
        before, burst = range(1, 2 * most, 2), range(101, 101 + 2 * (most + more), 2)
        client.send(opening())
        for stream in before:
            client.send(call("StreamMasks", stream), data_frames(b"", stream))
            client.answer(stream)
        client.send(*[call("StreamMasks", stream) for stream in burst])
        frames(client, HEADERS, more)
        assert counted(server.metrics)["cass_rejections_total", "streams"] == more
        server.streams.stop()
        frames(client, HEADERS, most)


def test_idle_streams_end_when_the_server_stops() -> None:
    """With UNAVAILABLE, so that they go to another server; and those that come later at once."""
    with running() as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        writers: list[Writer[pb.StreamMasksRequest]] = [Writer() for _ in range(3)]
        idle = [stub.StreamMasks(iter(writer), timeout=LIMIT) for writer in writers]
        for writer, answers in zip(writers[:2], idle, strict=False):
            writer.write(entry(mask_request()))
            next(answers)
        server.streams.stop()
        late = stub.StreamMasks(iter(Writer[pb.StreamMasksRequest]()), timeout=LIMIT)
        for answers in (*idle, late):
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the server is stopping"


def test_a_stream_with_a_request_under_way_ends_after_its_answer() -> None:
    engine = Held()
    with running(engine) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        writer: Writer[pb.StreamMasksRequest] = Writer()
        answers = stub.StreamMasks(iter(writer), timeout=LIMIT)
        for images in (HELD, 1, 1):
            writer.write(entry(mask_request(images)))
        assert engine.waiting.acquire(timeout=LIMIT)
        server.streams.stop()
        engine.go.set()
        assert next(answers).masks.masks[0].shape[0] == HELD
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        wait_until(lambda: in_flight(server.metrics) == 0)
        # What was asked for after it is for another server.
        assert engine.images == [HELD]


def test_a_caller_that_does_not_take_an_answer_is_sent_away() -> None:
    """Its window is too small for it; the bytes and the thread are for others then."""
    metrics = Metrics()
    with (
        running(None, Limits(send_seconds=0.5), metrics) as server,
        Connection(server.address) as client,
    ):
        message = prefixed(entry(mask_request(side=LARGE)).SerializeToString())
        client.send(opening(window=1000), call("StreamMasks"), data_frames(message, end=False))
        frames(client, RST_STREAM, 1)
        wait_until(lambda: in_flight(metrics) == 0)
        assert_no_bytes(server)
    assert requests_counted(metrics) == {("StreamMasks", "CANCELLED"): 1}


def test_a_stream_may_be_idle_for_longer_than_a_message_may_take() -> None:
    """Loaders that are paused keep theirs: what is waited for is the first byte of a request."""
    limits = Limits(receive_seconds=0.5, send_seconds=0.5)
    with running(limits=limits) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        writer: Writer[pb.StreamMasksRequest] = Writer()
        answers = stub.StreamMasks(iter(writer), timeout=LIMIT)
        writer.write(entry(mask_request()))
        next(answers)
        # Calls that began later, and send nothing, are over by then.
        for _ in range(2):
            silent = channel.stream_unary("/cass.v1.CassService/GenerateMask")
            with pytest.raises(grpc.RpcError, match="CANCELLED"):
                silent(iter(Writer[bytes]()), timeout=LIMIT)
        writer.write(entry(mask_request()))
        writer.close()
        assert len(list(answers)) == 1


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
