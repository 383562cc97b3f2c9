"""A full server: which requests are refused and how, which wait, and when there is room again."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_status import rpc_status
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from cass_server.exceptions import Overloaded
from cass_server.scheduling import admission as admission_module
from cass_server.scheduling.admission import Admission
from tests.server.support.details import fails, retry_delay
from tests.server.support.engines import FAILING, HELD, HoldingEngine
from tests.server.support.in_thread import SLOTS, Running, running
from tests.server.support.load import connect
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import DATA, Connection, frames, more, opening, request
from tests.server.support.requests import Stream, Writer, loss_request, mask_request

# The answer to a request of one image with so many cells along each side takes 256 KiB, and its
# message some 100 bytes. Requests of less than half of that are not counted by their bytes.
LARGE, LARGE_BYTES = 256, 256 << 10


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss"])
@pytest.mark.parametrize("most", [1, 6])
def test_one_more_than_the_limit_is_refused(method: str, most: int) -> None:
    """Before its message is read; requests that wait for a slot count too."""
    engine, writer = HoldingEngine(), Writer[bytes]()
    full = f"the server is full: {most} requests in flight at most"
    with running(engine, Limits(requests_in_flight=most)) as server:
        with engine.holding(server.stub, most) as calls:
            server.wait_in_flight(most)
            ask = server.channel.stream_unary(f"/cass.v1.CassService/{method}")
            with fails("RESOURCE_EXHAUSTED", full) as caught:
                ask(iter(writer), timeout=LIMIT, metadata=(("x-request-id", "job-7"),))
            writer.close()
            assert not any(made.done() for made in calls)
        assert 0 < retry_delay(caught.value) <= 2
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "job-7"
        assert all(len(made.result().masks) == 1 for made in calls)
        assert server.counted()["cass_rejections_total", "requests"] == 1
        assert server.ended()[method, "RESOURCE_EXHAUSTED"] == 1


@pytest.fixture
def few_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five refused callers get a delay at once, and ten a second after that."""
    monkeypatch.setattr(admission_module, "_MOST_DELAYS", 5)
    monkeypatch.setattr(admission_module, "_DELAYS_A_SECOND", 10)


def test_in_a_flood_few_refusals_have_a_delay(few_delays: None) -> None:
    """All calls are refused and counted; health checks and unknown methods are not part of it."""
    engine, flood = HoldingEngine(), 300
    with running(engine, Limits(requests_in_flight=1)) as server:
        ask = server.stub.GenerateMask.future
        with engine.holding(server.stub):
            calls = [ask(mask_request(), timeout=LIMIT) for _ in range(flood)]
            errors = [call.exception(timeout=LIMIT) for call in calls]
            for _ in range(20):
                assert server.health_check()
            nothing = server.channel.unary_unary("/cass.v1.CassService/NoMethod").future(b"")
            assert nothing.code() is grpc.StatusCode.UNIMPLEMENTED
            info = server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            assert info.limits.requests_in_flight == 1
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        has_delay = [rpc_status.from_call(error) is not None for error in errors]
        assert has_delay[:5] == [True] * 5
        assert not all(has_delay)
        server.assert_all_is_given_back()
        assert server.counted()["cass_rejections_total", "requests"] == flood
        assert server.ended()["GenerateMask", "RESOURCE_EXHAUSTED"] == flood
        assert engine.images == [HELD]
        assert server.has_room()


@pytest.mark.parametrize("fits", [True, False])
def test_more_bytes_than_the_limit_are_refused(fits: bool) -> None:
    """Of messages and answers: two images are held, and one more comes."""
    engine = HoldingEngine()
    # A message takes less than a KiB.
    most = 3 * LARGE_BYTES + (2 << 10 if fits else 0)
    full = f"the server is full: {most} bytes in flight at most"
    with running(engine, Limits(queue_bytes=most)) as server:
        with engine.holding(server.stub, side=LARGE):
            if fits:
                assert server.has_room(LARGE)
            else:
                with fails("RESOURCE_EXHAUSTED", full) as caught:
                    server.stub.GenerateMask(mask_request(side=LARGE), timeout=LIMIT)
                assert 0 < retry_delay(caught.value) <= 2
            # What is small is let in by number alone.
            assert server.has_room()
        server.assert_all_is_given_back()
        assert server.has_room(LARGE)
        assert server.counted().get(("cass_rejections_total", "bytes"), 0) == (not fits)
        assert server.ended().get(("GenerateMask", "RESOURCE_EXHAUSTED"), 0) == (not fits)


def test_a_large_message_counts_as_its_answer_does() -> None:
    """A loss without a gradient: all of it is in the message."""
    engine, loss = HoldingEngine(), loss_request(side=LARGE)
    loss.return_grad = False
    with running(engine, Limits(queue_bytes=2 * LARGE_BYTES + 1024)) as server:
        with engine.holding(server.stub, side=LARGE), fails("RESOURCE_EXHAUSTED"):
            server.stub.ComputeLoss(loss, timeout=LIMIT)
        server.assert_all_is_given_back()
        assert server.stub.ComputeLoss(loss, timeout=LIMIT).normalizer == LARGE * LARGE


@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_waits_for_room_for_its_bytes(ends: bool) -> None:
    """Its sender feels that as backpressure, or cancels; the slot is for others meanwhile."""
    engine = HoldingEngine()
    with running(engine, Limits(queue_bytes=1), slots=2) as server:
        with engine.holding(server.stub, side=LARGE):
            stream = Stream(server.stub, mask_request(side=LARGE))
            server.wait_in_flight(2)
            # One slot is held; the other one answers these.
            for _ in range(5):
                assert server.has_room()
            assert engine.images == [HELD, *[1] * 5]
            if not ends:
                stream.answers.cancel()
                server.wait_in_flight(1)
        if ends:
            assert stream.images() == 1
            stream.close()
            assert list(stream.answers) == []
        server.assert_all_is_given_back()
        assert server.ended()["StreamMasks", "OK" if ends else "CANCELLED"] == 1
        assert server.counted().get(("cass_rejections_total", "cancelled"), 0) == (not ends)


def test_a_stream_does_not_wait_for_room_while_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits is counted nowhere."""
    engine = HoldingEngine()
    with (
        running(engine, Limits(queue_bytes=1), slots=2) as server,
        engine.holding(server.stub, side=LARGE),
    ):
        stream = Stream(server.stub, mask_request(side=LARGE))
        server.wait_in_flight(2)
        monkeypatch.setattr(server.slow_peers, "_end_half", lambda *_, **__: None)
        monkeypatch.setattr(server.slow_peers, "_is_short", lambda: True)
        error = next(stream.answers).error
        assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert error.message == "the server is full: 1 bytes in flight at most"


def end_well(server: Running, engine: HoldingEngine, side: int) -> None:
    """Alone, a request may have any number of bytes."""
    assert server.has_room(side)


def end_as_a_failure(server: Running, engine: HoldingEngine, side: int) -> None:
    with fails("INTERNAL"):
        server.stub.GenerateMask(mask_request(FAILING, side), timeout=LIMIT)


def end_as_a_bad_request(server: Running, engine: HoldingEngine, side: int) -> None:
    with fails("INVALID_ARGUMENT"):
        server.stub.GenerateMask(mask_request(side=side, maps=0), timeout=LIMIT)


def end_as_a_bad_target(server: Running, engine: HoldingEngine, side: int) -> None:
    """Found while its bytes are held."""
    loss = loss_request(side=side)
    loss.ClearField("mask")
    loss.target.CopyFrom(loss.logits)
    loss.target.data = b"\x00\x00\x00\x40" * side * side
    with fails("INVALID_ARGUMENT", "target[0][0][0]: is not in [0, 1] (2.0)"):
        server.stub.ComputeLoss(loss, timeout=LIMIT)


def end_cancelled(server: Running, engine: HoldingEngine, side: int) -> None:
    with engine.holding(server.stub, side=side) as (made,):
        made.cancel()


def end_by_deadline(server: Running, engine: HoldingEngine, side: int) -> None:
    with engine.holding(server.stub, side=side, timeout=1) as (made,):
        assert made.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def end_with_the_connection(server: Running, engine: HoldingEngine, side: int) -> None:
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(connect(server.address))
        stub = cass_pb2_grpc.CassServiceStub(channel)
        (made,) = stack.enter_context(engine.holding(stub, side=side))
        channel.close()
        assert made.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("side", [4, LARGE])
@pytest.mark.parametrize(
    "end",
    [
        end_well,
        end_as_a_failure,
        end_as_a_bad_request,
        end_as_a_bad_target,
        end_cancelled,
        end_by_deadline,
        end_with_the_connection,
    ],
)
def test_place_and_bytes_are_given_back(
    end: Callable[[Running, HoldingEngine, int], None], side: int
) -> None:
    """The only ones; once the engine has done with the request, if the caller has gone."""
    engine = HoldingEngine()
    with running(engine, Limits(requests_in_flight=1, queue_bytes=1)) as server:
        end(server, engine, side)
        wait_until(lambda: server.has_room(side))
        server.assert_all_is_given_back()


def test_the_bytes_of_an_answer_count_until_it_is_taken() -> None:
    """By a caller that takes a part of it: another one must wait, or come back."""
    with (
        running(limits=Limits(queue_bytes=1)) as server,
        Connection(server.address) as client,
    ):
        client.send(opening(window=1000), request("GenerateMask", mask_request(side=LARGE)))
        frames(client, DATA, 1)
        server.wait_in_flight(0)
        assert not server.has_room(LARGE)
        assert server.has_room()
        client.send(more(1 << 20, 0), more(1 << 20, 1))
        wait_until(lambda: server.has_room(LARGE))
        server.assert_all_is_given_back()


@pytest.mark.parametrize("way", ["deadline", "cancel", "expire"])
def test_requests_whose_callers_have_gone_are_not_computed(way: str) -> None:
    """All slots are taken until the caller has gone; a later request has its turn after that.

    By its client's deadline or will; or it is silent, and its deadline passes at the server.
    """
    engine = HoldingEngine()
    with (
        running(engine) as server,
        connect(server.address) as other,
        Connection(server.address) as silent,
    ):
        with engine.holding(server.stub, SLOTS):
            if way == "expire":
                timeout = {"grpc-timeout": "200m"}
                silent.send(opening(), request("GenerateMask", mask_request(3), **timeout))
                silent.answer()  # which is the end, and has no message
            else:
                stub = cass_pb2_grpc.CassServiceStub(other)
                seconds = 1 if way == "deadline" else LIMIT
                late = stub.GenerateMask.future(mask_request(3), timeout=seconds)
                if way == "cancel":
                    server.wait_in_flight(SLOTS + 1)
                    late.cancel()
                else:
                    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                # What comes after it on its connection is seen after it.
                stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        assert server.has_room()
        server.wait_in_flight(0)
        found = server.counted()
    assert sorted(engine.images) == [1, *[HELD] * SLOTS]
    gone = [found.get(("cass_rejections_total", way), 0) for way in ("cancelled", "deadline")]
    # Clients send a deadline rounded up, and leave when theirs has come: either is right there.
    assert gone in {"deadline": ([1, 0], [0, 1]), "cancel": ([1, 0],), "expire": ([0, 1],)}[way]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stands still at `now`."""
    made = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(admission_module, "time", types.SimpleNamespace(monotonic=lambda: made.now))
    return made


def full(places: int, seconds: float = 0.0) -> Admission:
    """All places are taken, in which requests have taken so many seconds each until now."""
    admission = Admission(Limits(requests_in_flight=places))
    for _ in range(200 if seconds else 0):  # until the average is known
        admission.check_room()
        admission.enter()
        admission.leave(seconds)
    for _ in range(places):
        admission.enter()
    return admission


def delay(ask: Callable[[], None]) -> float:
    with pytest.raises(Overloaded, match="requests in flight at most") as caught:
        ask()
    return caught.value.delay


def test_delays_follow_each_other_as_slots_get_free(clock: types.SimpleNamespace) -> None:
    """Also before the message is there; of 0.01 s to 2 s, of which the first refusals have 0.01."""
    assert delay(full(1).enter) == 0.01
    admission = full(2, 0.4)
    # A slot is free every 0.2 s, and every sixth is for a caller with a delay.
    delays = [delay(ask) for ask in (admission.enter, admission.check_room, admission.enter)]
    assert delays == pytest.approx([1.2, 2.0, 2.0], rel=1e-3)
    clock.now += 1.7
    assert delay(admission.enter) == pytest.approx(0.3 + 1.2, rel=1e-3)
    admission.leave(0.4)
    admission.check_room()


def test_in_a_flood_few_get_a_delay(clock: types.SimpleNamespace, few_delays: None) -> None:
    """Five at once and ten a second: 0.2 s later two more, and after a calm as at first."""
    admission = full(1)
    for later, most in ((0, 5), (0.2001, 2), (60, 5)):
        clock.now += later
        has_delay = [delay(admission.enter) > 0 for _ in range(8)]
        assert has_delay == [True] * most + [False] * (8 - most)


def test_in_a_steady_flood_some_get_a_delay(clock: types.SimpleNamespace, few_delays: None) -> None:
    """However many there are: in 5 s ten a second, after the first five."""
    admission = full(1)
    delays = 0
    for _ in range(10_000):
        clock.now += 1 / 2000
        delays += delay(admission.enter) > 0
    assert delays == pytest.approx(5 + 5 * 10, abs=1)


def test_requests_that_wait_for_room_get_it_once_it_is_there() -> None:
    """Several requests, one at a time."""
    admission = Admission(Limits(queue_bytes=10))
    alone = threading.Lock()

    def hold() -> bool:
        assert admission.wait_to_hold(6, lambda: True)
        is_alone = alone.acquire(blocking=False)
        if is_alone:
            alone.release()
        admission.drop(6)
        return is_alone

    assert admission.try_hold(10)
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(hold) for _ in range(8)]
        assert not any(future.done() for future in waiting)
        admission.drop(10)
        assert all(future.result(LIMIT) for future in waiting)
    assert admission.try_hold(1 << 60)


def test_one_caller_has_a_share() -> None:
    """Of requests and bytes; others have the rest, and it has more again once it gives back."""
    admission = Admission(Limits(requests_in_flight=4, queue_bytes=100, caller_share=0.5))
    for _ in range(2):
        admission.enter("greedy")
    with pytest.raises(Overloaded, match="2 requests of one caller in flight") as caught:
        admission.enter("greedy")
    assert caught.value.reason == "requests"
    admission.enter("modest")
    admission.leave(0.1, "greedy")
    admission.enter("greedy")
    admission.hold(10, "modest")
    assert [admission.try_hold(size, "greedy") for size in (30, 21, 20)] == [True, False, True]
    # Of what a request has already, only the rest is new; alone, it may have any number.
    assert admission.try_hold(50, "modest", held=10)
    admission.drop(50, "greedy")
    assert admission.try_hold(1 << 40, "modest", held=50)


def test_callers_of_a_unix_socket_have_no_share() -> None:
    """gRPC calls them all by one name, so that a share would be all that there is."""
    limits = Limits(requests_in_flight=4, queue_bytes=100, caller_share=0.5)
    with running(limits=limits) as server:
        caller = server.slow_peers._answerer.caller((), b"unix:")
        for _ in range(4):
            server.admission.enter(caller)
        assert [server.admission.try_hold(50, caller) for _ in range(3)] == [True, True, False]
        for _ in range(4):
            server.admission.leave(0.1, caller)


@pytest.mark.parametrize("by_token", [False, True])
def test_a_caller_is_a_connection_or_a_token(by_token: bool) -> None:
    """Of two connections with one token, the second has room if callers are connections."""
    engine, limits = HoldingEngine(), Limits(requests_in_flight=2, caller_share=0.5)
    tokens = [(("authorization", f"Bearer {name}"),) for name in ("first", "second")]
    with (
        running(engine, limits, by_token=by_token) as server,
        connect(server.address) as other,
    ):
        first = server.stub.GenerateMask.future(mask_request(HELD), metadata=tokens[0])
        engine.gate.wait_held()
        ask = cass_pb2_grpc.CassServiceStub(other).GenerateMask.future
        second = ask(mask_request(HELD), timeout=LIMIT, metadata=tokens[0])
        if by_token:
            full = "the server is full: 1 requests of one caller in flight at most"
            with fails("RESOURCE_EXHAUSTED", full):
                second.result()
            second = ask(mask_request(HELD), timeout=LIMIT, metadata=tokens[1])
        engine.gate.wait_held()
        engine.gate.open()
        assert [len(made.result().masks) for made in (first, second)] == [1, 1]


def test_one_token_has_a_share_of_the_streams() -> None:
    """However it is written."""
    limits = Limits(streams=4, caller_share=0.5)
    tokens = [(("authorization", f"Bearer {name}"),) for name in ("first", "second")]
    with running(limits=limits, by_token=True) as server:
        opened = [Stream(server.stub, mask_request(), metadata=tokens[0]) for _ in range(2)]
        assert [stream.images() for stream in opened] == [1, 1]
        full = "the server is full: 2 streams of one caller in flight at most"
        with fails("RESOURCE_EXHAUSTED", full):
            Stream(server.stub, mask_request(), metadata=tokens[0]).images()
        for same in ("bearer first", "BEARER   first"):
            with fails("RESOURCE_EXHAUSTED", full):
                Stream(server.stub, mask_request(), metadata=(("authorization", same),)).images()
        assert Stream(server.stub, mask_request(), metadata=tokens[1]).images() == 1


def test_a_large_message_counts_from_its_arrival() -> None:
    """While it waits for a slot."""
    engine = HoldingEngine()
    limits = Limits(queue_bytes=4 << 20)
    with running(engine, limits, slots=1) as server:
        with engine.holding(server.stub):
            waiting = server.stub.ComputeLoss.future(loss_request(side=600), timeout=LIMIT)
            wait_until(lambda: server.admission.held_bytes > 600 * 600 * 4)
            with fails(
                "RESOURCE_EXHAUSTED", f"the server is full: {4 << 20} bytes in flight at most"
            ):
                server.stub.ComputeLoss(loss_request(side=900), timeout=LIMIT)
            engine.gate.open()
        assert waiting.result().normalizer == 600 * 600
        server.assert_all_is_given_back()


def test_short_memory_leaves_no_room_for_bytes() -> None:
    """But for a request that is alone, which nothing would ever make room for."""
    admission = Admission(Limits(queue_bytes=100))
    admission.is_short = True
    assert admission.try_hold(10)
    with pytest.raises(Overloaded, match="100 bytes"):
        admission.hold(10)
    admission.is_short = False
    admission.hold(10)


def test_idle_is_when_nothing_is_in_flight() -> None:
    """Neither requests nor bytes, which an answer has that is still being taken."""
    admission = Admission(Limits())
    admission.enter()
    admission.hold(5)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(admission.wait_idle, 10 * LIMIT) for _ in range(2)]
        admission.leave(0.1)
        assert not any(future.done() for future in waiting)
        admission.drop(5)
        for future in waiting:
            future.result(LIMIT)


class Rooms(RuleBasedStateMachine):
    """Any order of entering, holding and leaving, beside two sums."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        """Empty."""
        super().__init__()
        self.admission = Admission(Limits(requests_in_flight=3, queue_bytes=10))
        self.inside = 0
        self.sizes: list[int] = []

    @rule()
    def enter(self) -> None:
        """There is room for three."""
        if self.inside == 3:
            for ask in (self.admission.check_room, self.admission.enter):
                with pytest.raises(Overloaded, match="3 requests"):
                    ask()
            return
        self.admission.check_room()
        self.admission.enter()
        self.inside += 1

    @rule(seconds=st.floats(0, 100))
    def leave(self, seconds: float) -> None:
        """One of them."""
        if self.inside:
            self.admission.leave(seconds)
            self.inside -= 1

    @rule(target=requests, size=st.integers(1, 25), tries=st.booleans())
    def hold(self, size: int, tries: bool) -> int:
        """There is room for ten, or for any number alone."""
        total = sum(self.sizes)
        fits = not total or total + size <= 10
        if tries:
            assert self.admission.try_hold(size) == fits
        elif fits:
            self.admission.hold(size)
        else:
            with pytest.raises(Overloaded, match="10 bytes"):
                self.admission.hold(size)
        if not fits:
            return 0
        self.sizes.append(size)
        return size

    @rule(size=consumes(requests))
    def drop(self, size: int) -> None:
        """What was held."""
        if size:
            self.admission.drop(size)
            self.sizes.remove(size)


Rooms.TestCase.settings = settings(max_examples=50, deadline=None)
TestRooms = Rooms.TestCase
