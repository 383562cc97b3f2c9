"""StreamMasks: one answer for each request, in their order, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from cass_server.rpc import streams
from tests.server.support.details import fails, retry_delay
from tests.server.support.engines import FAILING, HELD, HoldingEngine
from tests.server.support.in_thread import Running, running
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
from tests.server.support.requests import Stream, Writer, mask_request

LIMITS = Limits(images=6, patches=3 << 20)
Known: TypeAlias = list[tuple[bytes, pb.StreamMasksResponse]]


def entry(request: pb.GenerateMaskRequest) -> pb.StreamMasksRequest:
    return pb.StreamMasksRequest(request=request)


def good(images: int, side: int, dtype: int, *, owners: bool = False) -> pb.GenerateMaskRequest:
    request = mask_request(images, side, maps=2, boxes=3)
    request.dtype, request.return_owner = dtype, owners
    return request


def changed(**fields: Any) -> pb.GenerateMaskRequest:
    request = mask_request()
    request.MergeFrom(pb.GenerateMaskRequest(**fields))
    return request


GOOD = [
    good(1, 4, pb.DATA_TYPE_FLOAT32),
    good(3, 32, pb.DATA_TYPE_UINT8),
    good(2, 300, pb.DATA_TYPE_FLOAT16),
    good(2, 8, pb.DATA_TYPE_BFLOAT16),
    good(1, 1, pb.DATA_TYPE_UINT8),
    good(4, 512, pb.DATA_TYPE_FLOAT32),
    good(0, 8, pb.DATA_TYPE_FLOAT32),
    good(2, 16, pb.DATA_TYPE_FLOAT32, owners=True),
]
NOT_FINITE = changed()
NOT_FINITE.boxes.xyxy = np.array([8, 8, np.nan, 24], "<f4").tobytes()
BAD = [
    # What is sent, and the field and the reason of the error that comes back.
    (b"\xff", "request", "is not a cass.v1.StreamMasksRequest"),
    (b"", "feature_map", "is missing"),
    (
        changed(dtype=99),
        "dtype",
        "must be one of float32, float16, bfloat16, uint8, got the unknown value 99",
    ),
    (
        changed(mask_spec=pb.MaskSpec(merge=7)),
        "mask_spec.merge",
        "has the unknown value 7",
    ),
    (mask_request(images=7), "boxes.counts", "7 images, the server's limit is 6"),
    (mask_request(side=2000), "feature_map", "4000000 patches, the server's limit is 3145728"),
    (NOT_FINITE, "boxes[0][0].x2", "is not finite (nan)"),
    (
        bytes([15 << 3, 0]) * 100_000,
        "request",
        "has 200000 bytes beside its boxes and tensors, the server's limit is 65976",
    ),
]
FAILURE = pb.Error(code=13, message="internal error; see the server's log")


def answer_to_bad(field: str, reason: str) -> pb.Error:
    return pb.Error(code=3, field=field, reason=reason, message=f"{field}: {reason}")


@pytest.fixture(scope="module")
def known(server: Running) -> Known:
    """Messages, and what a stream answers: to good ones what a single call does."""
    found: list[tuple[Any, pb.StreamMasksResponse]] = [
        (entry(request), pb.StreamMasksResponse(masks=server.stub.GenerateMask(request)))
        for request in GOOD
    ]
    found += [
        (
            entry(data) if isinstance(data, pb.GenerateMaskRequest) else data,
            pb.StreamMasksResponse(error=answer_to_bad(*error)),
        )
        for data, *error in BAD
    ]
    found.append((entry(mask_request(images=FAILING)), pb.StreamMasksResponse(error=FAILURE)))
    return [
        (sent if isinstance(sent, bytes) else sent.SerializeToString(), answer)
        for sent, answer in found
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(HoldingEngine(holds=False), LIMITS) as started:
        yield started


def check(server: Running, sent: Known) -> None:
    call: Any = server.channel.stream_stream("/cass.v1.CassService/StreamMasks")
    answers = list(call(iter([data for data, _ in sent]), timeout=LIMIT))
    # The bytes may differ in what is not set.
    assert [*map(pb.StreamMasksResponse.FromString, answers)] == [answer for _, answer in sent]


def test_answers_are_in_the_order_of_requests(known: Known) -> None:
    """One after the other, whatever becomes of those between."""
    engine = HoldingEngine(holds=False)
    with running(engine, LIMITS) as server:
        check(server, known + known[::-1])
    assert engine.most_at_a_time == 1


@given(data=st.data())
@settings(max_examples=30)
def test_any_sequence_has_its_answers(server: Running, known: Known, data: st.DataObject) -> None:
    check(server, data.draw(st.lists(st.sampled_from(known), max_size=12)))
    server.assert_all_is_given_back()


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Answers of a MiB: what lies between the two ends is some MiB, whatever is asked for."""
    count, engine = 400, HoldingEngine()
    written = threading.Event()

    def requests() -> Iterator[pb.StreamMasksRequest]:
        for _ in range(count):
            yield entry(mask_request(side=512))
        written.set()

    with running(engine) as server:
        answers = server.stub.StreamMasks(requests(), timeout=LIMIT)
        assert calls_when_stuck(server, engine) < count // 4
        # They are small enough to be written all the same, into the buffers in between.
        assert written.wait(timeout=LIMIT)
        assert sum(answer.WhichOneof("result") == "masks" for answer in answers) == count
    assert len(engine.images) == count


def calls_when_stuck(server: Running, engine: HoldingEngine) -> int:
    """How often the engine has computed, once it does so no more."""
    calls = -1
    while len(engine.images) != calls or not calls:
        calls = len(engine.images)
        # The server has had its time when other calls were answered meanwhile.
        for _ in range(50):
            server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
    return calls


@pytest.mark.parametrize(
    ("side", "code"), [(2048, "RESOURCE_EXHAUSTED"), (512, "CANCELLED")], ids=["large", "unread"]
)
def test_a_client_that_goes_is_no_error_of_the_server(
    side: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While an answer is being written: gRPC would log that as an error, with a traceback.

    An answer is larger than the client takes, or it cancels without having read any.
    """
    engine = HoldingEngine()
    with running(engine, receive_bytes=4 << 20) as server:
        stream = Stream(server.stub, *[mask_request(side=side)] * 100)
        if code == "CANCELLED":
            calls_when_stuck(server, engine)
            stream.answers.cancel()
        with fails(code):
            list(stream.answers)
        server.wait_in_flight(0)
        # The one whose answer was being written, and maybe one that was received meanwhile.
        assert 1 <= server.ended()["StreamMasks", "CANCELLED"] <= 2
    assert caplog.records == []


def test_half_close_and_the_end() -> None:
    """What was asked for before the client's end is answered, and then the call ends well."""
    with running() as server:
        stream = Stream(server.stub)
        for images in (1, 2):
            stream.ask(mask_request(images))
            assert stream.images() == images
        stream.ask(mask_request(3))
        stream.close()
        assert stream.images() == 3
        assert list(stream.answers) == []
        assert stream.answers.code() is grpc.StatusCode.OK


# Of two images, some 512 KiB.
LARGE = 256


@pytest.mark.parametrize("way", ["CANCELLED", "DEADLINE_EXCEEDED"])
@pytest.mark.parametrize("side", [4, LARGE])
def test_a_stream_given_up_while_it_computes_gives_all_back(side: int, way: str) -> None:
    """The one slot, the one stream, and the bytes; once the engine has done with them."""
    engine = HoldingEngine()
    with running(engine, Limits(streams=1), slots=1) as server:
        timeout = LIMIT if way == "CANCELLED" else 1
        request = entry(mask_request(HELD, side))
        answers = server.stub.StreamMasks(iter([request]), timeout=timeout)
        engine.gate.wait_held()
        if way == "CANCELLED":
            answers.cancel()
        with fails(way):
            next(answers)
        engine.gate.open()
        server.assert_all_is_given_back()
        assert server.ended() == {("StreamMasks", "CANCELLED"): 1}
        assert server.has_room()
        wait_until(lambda: has_room_for_a_stream(server))


def has_room_for_a_stream(server: Running) -> bool:
    answers = server.stub.StreamMasks(iter([entry(mask_request())]), timeout=LIMIT)
    try:
        return len(list(answers)) == 1
    except grpc.RpcError:
        if answers.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False


@pytest.mark.parametrize("most", [1, 5])
def test_one_stream_more_than_the_limit_is_refused(most: int) -> None:
    """And has room once another one has ended."""
    full = f"the server is full: {most} streams in flight at most"
    with running(limits=Limits(streams=most)) as server:
        opened = [Stream(server.stub, mask_request()) for _ in range(most)]
        assert [stream.images() for stream in opened] == [1] * most
        with fails("RESOURCE_EXHAUSTED", full) as caught:
            next(server.stub.StreamMasks(iter(()), timeout=LIMIT))
        assert retry_delay(caught.value) == 1.0
        assert server.has_room()
        for stream in opened:
            stream.close()
        assert [list(stream.answers) for stream in opened] == [[]] * most
        wait_until(lambda: has_room_for_a_stream(server))
        assert server.counted()["cass_rejections_total", "streams"] >= 1


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
        assert server.counted()["cass_rejections_total", "streams"] == more
        server.streams.stop()
        frames(client, HEADERS, most)


def test_streams_end_when_the_server_stops() -> None:
    """With UNAVAILABLE, so that they go to another server: idle ones, later ones, and busy ones.

    These are answered first, but not what was asked for after that.
    """
    engine = HoldingEngine()
    with running(engine) as server:
        idle = [Stream(server.stub), Stream(server.stub, mask_request())]
        assert idle[1].images() == 1
        busy = Stream(server.stub, *map(mask_request, (HELD, 1, 1)))
        engine.gate.wait_held()
        server.streams.stop()
        for stream in (*idle, Stream(server.stub)):
            with fails("UNAVAILABLE", "the server is stopping"):
                next(stream.answers)
        engine.gate.open()
        assert busy.images() == HELD
        with fails("UNAVAILABLE", "the server is stopping"):
            next(busy.answers)
        server.wait_in_flight(0)
    assert engine.images == [1, HELD]


def test_a_stream_that_cannot_be_ended_is_alone_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever gRPC makes of a peer that has gone just now."""
    lost: list[Any] = []
    end = streams._Stream._end

    def fail_once(stream: Any) -> None:
        lost.append(stream)
        if len(lost) == 1:
            raise grpc.RpcError
        end(stream)

    monkeypatch.setattr(streams._Stream, "_end", fail_once)
    with running() as server:
        opened = [Stream(server.stub, mask_request()) for _ in range(3)]
        assert [stream.images() for stream in opened] == [1] * 3
        # The service has answered, and may not have noticed that it has.
        wait_until(lambda: not any(s._is_busy for s in server.streams._streams))
        server.streams.stop()
        wait_until(lambda: sum(stream.answers.done() for stream in opened) == 2)


def test_a_caller_that_does_not_take_an_answer_is_sent_away() -> None:
    """Its window is too small for it; the bytes and the thread are for others then."""
    with (
        running(limits=Limits(send_seconds=0.5)) as server,
        Connection(server.address) as client,
    ):
        message = prefixed(entry(mask_request(side=LARGE)).SerializeToString())
        client.send(opening(window=1000), call("StreamMasks"), data_frames(message, end=False))
        frames(client, RST_STREAM, 1)
        server.assert_all_is_given_back()
        assert server.ended() == {("StreamMasks", "CANCELLED"): 1}


def test_a_stream_may_be_idle_for_longer_than_a_message_may_take() -> None:
    """Loaders that are paused keep theirs: what is waited for is the first byte of a request."""
    limits = Limits(receive_seconds=0.5, send_seconds=0.5)
    with running(limits=limits) as server:
        stream = Stream(server.stub, mask_request())
        assert stream.images() == 1
        # Calls that began later, and send nothing, are over by then.
        for _ in range(2):
            silent = server.channel.stream_unary("/cass.v1.CassService/GenerateMask")
            with fails("CANCELLED"):
                silent(iter(Writer[bytes]()), timeout=LIMIT)
        stream.ask(mask_request())
        assert stream.images() == 1


def test_streams_do_not_wait_for_each_other() -> None:
    engine = HoldingEngine()
    with running(engine) as server:
        held, free = Stream(server.stub, mask_request(HELD)), Stream(server.stub)
        engine.gate.wait_held()
        for images in (1, 3, 4):
            free.ask(mask_request(images))
            assert free.images() == images
        engine.gate.open()
        held.ask(mask_request(1))
        assert [held.images(), held.images()] == [HELD, 1]
