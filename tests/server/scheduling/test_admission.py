"""A full server: who is turned away and how, who waits, and when a place is free again."""

from __future__ import annotations

import contextlib
import queue
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from cass_server.exceptions import Overloaded
from cass_server.observability.metrics import Metrics
from cass_server.scheduling import admission as admission_module
from cass_server.scheduling.admission import Admission
from tests.server.support.calls import Writer, counted, in_flight, requests_counted
from tests.server.support.details import told
from tests.server.support.engines import FAILING, HELD, Held
from tests.server.support.in_thread import (
    SLOTS,
    Running,
    connected,
    running,
    service,
    service_channel,
)
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import (
    DATA,
    Connection,
    call,
    data_frames,
    frames,
    more,
    opening,
    prefixed,
)
from tests.server.support.requests import loss_request, mask_request

# The answer to a request of one image with so many cells along each side takes 256 KiB, and its
# message some 100 bytes. Requests of less than half of that are not counted by their bytes.
LARGE, LARGE_BYTES = 256, 256 << 10


@contextlib.contextmanager
def held(
    stub: Any, engine: Held, number: int = 1, side: int = 4, **options: Any
) -> Iterator[list[Any]]:
    """So many calls, under way until the end; those that have a slot wait in the engine."""
    options = {"timeout": LIMIT, **options}
    calls = [stub.GenerateMask.future(mask_request(HELD, side), **options) for _ in range(number)]
    try:
        for _ in range(min(number, SLOTS)):
            assert engine.waiting.acquire(timeout=LIMIT)
        yield calls
    finally:
        engine.go.set()
        for made in calls:
            made.exception(timeout=LIMIT) if not made.cancelled() else None


def succeeds(stub: Any, side: int = 4) -> bool:
    """Whether there is room for a request."""
    try:
        stub.GenerateMask(mask_request(side=side), timeout=LIMIT)
    except grpc.RpcError as error:
        told(error)
        return False
    return True


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss"])
@pytest.mark.parametrize("most", [1, 6])
def test_one_more_than_the_limit_is_refused(method: str, most: int) -> None:
    """More of them than compute at a time: those that wait for a slot count too."""
    engine, metrics = Held(), Metrics()
    request = mask_request() if method == "GenerateMask" else loss_request()
    with service(engine, Limits(requests_in_flight=most), metrics) as stub:
        with held(stub, engine, most) as calls:
            wait_until(lambda: in_flight(metrics) == most)
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, method)(request, timeout=LIMIT)
            assert not any(made.done() for made in calls)
        message, delay = told(caught.value)
        assert message == f"the server is full: {most} requests in flight at most"
        assert 0 < delay <= 2
        assert all(len(made.result().masks) == 1 for made in calls)
    assert counted(metrics)["cass_rejections_total", "requests"] == 1


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss"])
def test_a_refusal_comes_before_the_message(method: str) -> None:
    """The caller has sent none by then; it is told its id beside the time to wait."""
    engine = Held()
    messages: queue.Queue[bytes | None] = queue.Queue()
    with service_channel(engine, Limits(requests_in_flight=1)) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine):
            ask = channel.stream_unary(f"/cass.v1.CassService/{method}")
            metadata = (("x-request-id", "job-7"),)
            with pytest.raises(grpc.RpcError) as caught:
                ask(iter(messages.get, None), timeout=LIMIT, metadata=metadata)
            messages.put(None)
    message, delay = told(caught.value)
    assert message == "the server is full: 1 requests in flight at most"
    assert 0 < delay <= 2
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "job-7"


@pytest.fixture
def few_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five callers are told when to come back, and ten a second; how many is a matter of tuning."""
    monkeypatch.setattr(admission_module, "_MOST_DELAYS", 5)
    monkeypatch.setattr(admission_module, "_DELAYS_A_SECOND", 10)


def test_in_a_flood_few_are_told_when_to_come_back(few_told: None) -> None:
    """To tell them costs more than to refuse them; all are refused, counted, and none is let in."""
    engine, metrics, flood = Held(), Metrics(), 300
    with (
        running(engine, Limits(requests_in_flight=1), metrics) as server,
        connected(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine):
            calls = [stub.GenerateMask.future(mask_request(), timeout=LIMIT) for _ in range(flood)]
            errors = [call.exception(timeout=LIMIT) for call in calls]
            # Health checks, and calls of no method at all, are not part of it.
            for _ in range(20):
                check = health_pb2_grpc.HealthStub(channel).Check
                assert check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status
            nothing = channel.unary_unary("/cass.v1.CassService/NoMethod").future(b"")
            assert nothing.code() is grpc.StatusCode.UNIMPLEMENTED
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        is_told = [rpc_status.from_call(error) is not None for error in errors]
        assert is_told[:5] == [True] * 5
        assert not all(is_told)
        wait_until(lambda: in_flight(metrics) == 0)
        # And that was for these calls alone.
        wait_until(lambda: succeeds(stub))
        assert_all_is_given_back(server)
    found = counted(metrics)
    assert found["cass_rejections_total", "requests"] == flood
    assert found["cass_requests_total", "RESOURCE_EXHAUSTED", "GenerateMask"] == flood
    assert engine.images == [HELD, 1]


def test_health_and_information_are_for_a_full_server_too() -> None:
    engine = Held()
    with (
        running(engine, Limits(requests_in_flight=1)) as server,
        connected(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine):
            check = health_pb2_grpc.HealthStub(channel).Check
            assert check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status
            info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            assert info.limits.requests_in_flight == 1


@pytest.mark.parametrize("fits", [True, False])
def test_more_bytes_than_the_limit_are_refused(fits: bool) -> None:
    """Of messages and answers: two images are held, and one more comes."""
    engine, metrics = Held(), Metrics()
    # A message takes less than a KiB.
    most = 3 * LARGE_BYTES + (2 << 10 if fits else 0)
    with service(engine, Limits(queue_bytes=most), metrics) as stub:
        with held(stub, engine, side=LARGE):
            if fits:
                assert succeeds(stub, LARGE)
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    stub.GenerateMask(mask_request(side=LARGE), timeout=LIMIT)
                message, delay = told(caught.value)
                assert message == f"the server is full: {most} bytes in flight at most"
                assert 0 < delay <= 2
            # What is small is let in by number alone.
            assert succeeds(stub)
        wait_until(lambda: succeeds(stub, LARGE))
    assert (("cass_rejections_total", "bytes") in counted(metrics)) != fits


def test_a_large_message_counts_as_its_answer_does() -> None:
    """A loss without a gradient: all of it is in the message."""
    engine, metrics = Held(), Metrics()
    request = loss_request(side=LARGE)
    request.return_grad = False
    with service(engine, Limits(queue_bytes=2 * LARGE_BYTES + 1024), metrics) as stub:
        with held(stub, engine, side=LARGE), pytest.raises(grpc.RpcError) as caught:
            stub.ComputeLoss(request, timeout=LIMIT)
        told(caught.value)
        wait_until(lambda: succeeds(stub, LARGE))
        assert stub.ComputeLoss(request, timeout=LIMIT).normalizer == LARGE * LARGE


def test_alone_a_request_may_have_any_number_of_bytes() -> None:
    with service(limits=Limits(queue_bytes=1)) as stub:
        assert len(stub.GenerateMask(mask_request(side=LARGE), timeout=LIMIT).masks) == 1


def test_a_stream_waits_for_room_for_its_bytes() -> None:
    """Its sender feels that as backpressure; the slot is for others meanwhile."""
    engine, metrics = Held(), Metrics()
    writer: Writer[pb.StreamMasksRequest] = Writer()
    with (
        running(engine, Limits(queue_bytes=1), metrics, slots=2) as server,
        connected(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine, side=LARGE):
            answers = stub.StreamMasks(iter(writer), timeout=LIMIT)
            writer.write(pb.StreamMasksRequest(request=mask_request(side=LARGE)))
            wait_until(lambda: in_flight(metrics) == 2)
            # One slot is held; by the other one these are answered.
            for _ in range(5):
                assert succeeds(stub)
            assert engine.images == [HELD, *[1] * 5]
        assert next(answers).WhichOneof("result") == "masks"
        writer.close()
        assert list(answers) == []
        wait_until(lambda: in_flight(metrics) == 0)
        assert_all_is_given_back(server)
    assert requests_counted(metrics)["StreamMasks", "OK"] == 1


def test_a_stream_that_waits_for_room_may_be_given_up() -> None:
    engine, metrics = Held(), Metrics()
    request = pb.StreamMasksRequest(request=mask_request(side=LARGE))
    with (
        running(engine, Limits(queue_bytes=1), metrics, slots=2) as server,
        connected(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine, side=LARGE):
            answers = stub.StreamMasks(iter([request]), timeout=LIMIT)
            wait_until(lambda: in_flight(metrics) == 2)
            answers.cancel()
            wait_until(lambda: in_flight(metrics) == 1)
            assert engine.images == [HELD]
        wait_until(lambda: in_flight(metrics) == 0)
        assert_all_is_given_back(server)
    assert requests_counted(metrics)["StreamMasks", "CANCELLED"] == 1
    assert counted(metrics)["cass_rejections_total", "cancelled"] == 1


def assert_all_is_given_back(server: Running) -> None:
    """Places and bytes: more than there may be are let in where there are none."""
    wait_until(lambda: server.admission.try_hold(1 << 60))
    server.admission.drop(1 << 60)
    idle = threading.Event()
    threading.Thread(
        target=lambda: (server.admission.wait_idle(LIMIT), idle.set()), daemon=True
    ).start()
    assert idle.wait(timeout=LIMIT / 2)


def end_well(server: Running, stub: Any, engine: Held, side: int) -> None:
    stub.GenerateMask(mask_request(side=side), timeout=LIMIT)


def end_as_a_failure(server: Running, stub: Any, engine: Held, side: int) -> None:
    with pytest.raises(grpc.RpcError, match="internal error"):
        stub.GenerateMask(mask_request(FAILING, side), timeout=LIMIT)


def end_as_a_bad_request(server: Running, stub: Any, engine: Held, side: int) -> None:
    with pytest.raises(grpc.RpcError, match="feature_map"):
        stub.GenerateMask(mask_request(side=side, maps=0), timeout=LIMIT)


def end_as_a_bad_target(server: Running, stub: Any, engine: Held, side: int) -> None:
    """Which is found out when its bytes are held."""
    request = loss_request(side=side)
    request.ClearField("mask")
    request.target.CopyFrom(request.logits)
    request.target.data = b"\x00\x00\x00\x40" * side * side
    with pytest.raises(grpc.RpcError, match=r"target.*is not in \[0, 1\]"):
        stub.ComputeLoss(request, timeout=LIMIT)


def end_cancelled(server: Running, stub: Any, engine: Held, side: int) -> None:
    with held(stub, engine, side=side) as calls:
        calls[0].cancel()


def end_by_deadline(server: Running, stub: Any, engine: Held, side: int) -> None:
    with held(stub, engine, side=side, timeout=1) as calls:
        assert calls[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED


def end_with_the_connection(server: Running, stub: Any, engine: Held, side: int) -> None:
    with connected(server.address) as channel:
        other = cass_pb2_grpc.CassServiceStub(channel)
        call = other.GenerateMask.future(mask_request(HELD, side), timeout=LIMIT)
        assert engine.waiting.acquire(timeout=LIMIT)
    assert call.code() is grpc.StatusCode.CANCELLED
    engine.go.set()


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
    end: Callable[[Running, Any, Held, int], None], side: int
) -> None:
    """The only one, twice; once the engine has done with it, if the caller has gone."""
    for _ in range(2):
        engine = Held()
        with (
            running(engine, Limits(requests_in_flight=1, queue_bytes=1)) as server,
            connected(server.address) as channel,
        ):
            stub = cass_pb2_grpc.CassServiceStub(channel)
            end(server, stub, engine, side)
            wait_until(lambda: succeeds(stub, side))  # noqa: B023
            assert_all_is_given_back(server)


def test_the_bytes_of_an_answer_count_until_it_is_taken() -> None:
    """By a caller that takes a part of it: another one must wait, or come back."""
    with (
        running(None, Limits(queue_bytes=1)) as server,
        connected(server.address) as channel,
        Connection(server.address) as client,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        message = prefixed(mask_request(side=LARGE).SerializeToString())
        client.send(opening(window=1000), call("GenerateMask"), data_frames(message))
        frames(client, DATA, 1)
        wait_until(lambda: in_flight(server.metrics) == 0)
        assert not succeeds(stub, LARGE)
        assert succeeds(stub)
        client.send(more(1 << 20, 0), more(1 << 20, 1))
        wait_until(lambda: succeeds(stub, LARGE))
        assert_all_is_given_back(server)


@pytest.mark.parametrize("way", ["deadline", "cancel", "expire"])
def test_who_has_gone_is_not_computed(way: str) -> None:
    """All slots are taken until the caller has gone; a later request has its turn after that.

    By its client's deadline or will; or it is silent, and its deadline passes at the server.
    """
    engine, metrics = Held(), Metrics()
    with (
        running(engine, metrics=metrics) as server,
        connected(server.address) as channel,
        connected(server.address) as other,
        Connection(server.address) as silent,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine, SLOTS):
            if way == "expire":
                message = prefixed(mask_request(3).SerializeToString())
                begin = call("GenerateMask", **{"grpc-timeout": "200m"})
                silent.send(opening(), begin, data_frames(message))
                silent.answer()  # which is the end, and has no message
            else:
                timeout = 1 if way == "deadline" else LIMIT
                ask = cass_pb2_grpc.CassServiceStub(other).GenerateMask.future
                late = ask(mask_request(3), timeout=timeout)
                if way == "cancel":
                    wait_until(lambda: in_flight(metrics) == SLOTS + 1)
                    late.cancel()
                else:
                    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                # What comes after it on its connection is seen after it.
                check = health_pb2_grpc.HealthStub(other).Check
                check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
        stub.GenerateMask(mask_request(), timeout=LIMIT)
        wait_until(lambda: in_flight(metrics) == 0)
    assert sorted(engine.images) == [1, *[HELD] * SLOTS]
    found = counted(metrics)
    gone = {
        reason: found.get(("cass_rejections_total", reason), 0)
        for reason in ("cancelled", "deadline")
    }
    # Clients tell a deadline rounded up, and leave when theirs has come.
    assert sum(gone.values()) == 1
    assert way == "deadline" or gone["deadline" if way == "expire" else "cancelled"] == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stands still at `now`."""
    made = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(admission_module, "time", types.SimpleNamespace(monotonic=lambda: made.now))
    return made


def refused(admission: Admission) -> float:
    """What one who comes now is told to wait; the same whether its message is there or not."""
    with pytest.raises(Overloaded) as caught:
        admission.enter()
    return caught.value.delay


def test_callers_are_told_to_come_back_one_after_the_other(clock: types.SimpleNamespace) -> None:
    """Once requests have taken 0.4 s each in one of two places."""
    admission = Admission(Limits(requests_in_flight=2))
    for _ in range(200):  # until the average is known
        admission.enter()
        admission.leave(0.4)
    admission.enter(), admission.enter()
    # A place is free every 0.2 s, and every sixth is for one who comes back; 2 s is the most.
    assert [refused(admission) for _ in range(3)] == pytest.approx([1.2, 2.0, 2.0], rel=1e-3)
    clock.now += 1.7
    assert refused(admission) == pytest.approx(0.3 + 1.2, rel=1e-3)


def test_who_asks_first_is_told_likewise(clock: types.SimpleNamespace) -> None:
    """Before its message is there, which takes no place."""
    admission = Admission(Limits(requests_in_flight=1))
    for _ in range(200):
        admission.check_room()
        admission.enter()
        admission.leave(0.1)
    admission.enter()
    with pytest.raises(Overloaded, match="1 requests in flight at most") as caught:
        admission.check_room()
    # Six of the only place.
    assert caught.value.delay == pytest.approx(0.6, rel=1e-3)
    admission.leave(0.1)
    admission.check_room()


def test_the_first_refusals_have_a_delay_too(clock: types.SimpleNamespace) -> None:
    admission = Admission(Limits(requests_in_flight=1))
    admission.enter()
    assert refused(admission) == 0.01


def test_a_flood_is_told_no_more(clock: types.SimpleNamespace, few_told: None) -> None:
    """Five at once and ten a second: 0.2 s later two more, and after a calm as at first."""
    admission = Admission(Limits(requests_in_flight=1))
    admission.enter()
    for later, told_now in ((0, 5), (0.2001, 2), (60, 5)):
        clock.now += later
        assert [refused(admission) > 0 for _ in range(8)] == [True] * told_now + [False] * (
            8 - told_now
        )


def test_a_steady_flood_has_its_share_told(clock: types.SimpleNamespace, few_told: None) -> None:
    """However often it comes: ten a second, after the first five."""
    admission = Admission(Limits(requests_in_flight=1))
    admission.enter()
    told_then = 0
    for _ in range(10_000):
        clock.now += 1 / 2000
        told_then += refused(admission) > 0
    assert told_then == pytest.approx(5 + 5 * 10, abs=1)


def in_threads(number: int, function: Callable[[int], None]) -> list[threading.Thread]:
    """Started; they end in time or the test does not."""
    threads = [threading.Thread(target=function, args=(i,), daemon=True) for i in range(number)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(timeout=LIMIT)
        assert not thread.is_alive()


def test_who_waits_for_room_has_it_once_it_is_there() -> None:
    """Many who want it, one at a time."""
    admission = Admission(Limits(queue_bytes=10))
    lock, held_now, most = threading.Lock(), 0, 0

    def hold(_: int) -> None:
        nonlocal held_now, most
        assert admission.wait_to_hold(6, lambda: True)
        with lock:
            held_now += 1
            most = max(most, held_now)
        with lock:
            held_now -= 1
        admission.drop(6)

    assert admission.try_hold(10)
    threads = in_threads(8, hold)
    assert most == 0
    admission.drop(10)
    join(threads)
    assert most == 1
    assert admission.try_hold(1 << 60)


def test_who_is_not_wanted_any_more_waits_no_longer() -> None:
    admission = Admission(Limits(queue_bytes=10))
    admission.hold(10)
    wanted = threading.Event()
    wanted.set()
    outcomes: list[bool] = []
    threads = in_threads(2, lambda _: outcomes.append(admission.wait_to_hold(1, wanted.is_set)))
    wanted.clear()
    join(threads)
    assert outcomes == [False, False]
    admission.drop(10)
    assert admission.try_hold(1 << 60)


def test_idle_is_when_nothing_is_in_flight() -> None:
    """Neither requests nor bytes, which an answer has that is still being taken."""
    admission = Admission(Limits())
    admission.enter()
    admission.hold(5)
    is_idle: list[int] = []

    def wait(_: int) -> None:
        admission.wait_idle(LIMIT)
        is_idle.append(1)

    threads = in_threads(2, wait)
    admission.leave(0.1)
    assert is_idle == []
    admission.drop(5)
    join(threads)
    assert is_idle == [1, 1]


def test_a_wait_for_idleness_ends() -> None:
    admission = Admission(Limits())
    admission.enter()
    join(in_threads(1, lambda _: admission.wait_idle(0.05)))


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
        """There is room for ten, or for one who is alone."""
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
