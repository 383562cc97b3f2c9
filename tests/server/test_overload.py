"""A full server: who is turned away and how, who waits, and when a place is free again."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server import admission as admission_module
from cass_server.admission import Admission, Overloaded, Ticket
from cass_server.engine import CpuEngine
from cass_server.gate import Gate
from cass_server.limits import Limits
from cass_server.metrics import Metrics
from cass_server.pace import Pace
from cass_server.service import CassService
from tests.server.calls import LIMIT, Writer, counted, in_flight, requests_counted, wait_until
from tests.server.engines import FAILING, HELD, Held
from tests.server.in_thread import service, service_channel
from tests.server.raw_http2 import (
    END_STREAM,
    PING,
    Connection,
    call,
    data_frames,
    frame,
    opening,
    prefixed,
)
from tests.server.requests import loss_request, mask_request

# Of `tests.server.in_thread`.
THREADS = 4
# The answer to a request of one image of 4 x 4 cells takes 64 bytes, its message less than 128.
SMALL = 192


@contextlib.contextmanager
def held(stub: Any, engine: Held, number: int = 1, **options: Any) -> Iterator[list[Any]]:
    """So many calls, which are under way until the end; the first few wait in the engine."""
    options = {"timeout": LIMIT, **options}
    calls = [stub.GenerateMask.future(mask_request(HELD), **options) for _ in range(number)]
    try:
        for _ in range(min(number, THREADS)):
            assert engine.waiting.acquire(timeout=LIMIT)
        yield calls
    finally:
        engine.go.set()
        for made in calls:
            made.exception(timeout=LIMIT) if not made.cancelled() else None


def told(error: grpc.RpcError) -> tuple[str, float]:
    """Message and seconds to wait of a refusal."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)
    (detail,) = status.details
    info = error_details_pb2.RetryInfo()
    assert detail.Unpack(info)
    assert status.message == error.details()
    return status.message, info.retry_delay.ToNanoseconds() / 1e9


def succeeds(stub: Any) -> bool:
    """Whether there is room for a request."""
    try:
        stub.GenerateMask(mask_request(), timeout=LIMIT)
    except grpc.RpcError as error:
        told(error)
        return False
    return True


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss"])
@pytest.mark.parametrize("most", [1, 6])
def test_one_more_than_the_limit_is_refused(method: str, most: int) -> None:
    """More of them than threads: those that wait for a thread count too."""
    engine, metrics = Held(), Metrics()
    request = mask_request() if method == "GenerateMask" else loss_request()
    with service(engine, Limits(requests_in_flight=most), metrics) as stub:
        with held(stub, engine, most) as calls:
            wait_until(lambda: in_flight(metrics) == most)
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, method)(request, timeout=LIMIT)
            assert not any(made.done() for made in calls)
        message, delay = told(caught.value)
        assert message == f"the server is full: {most} requests are under way"
        assert 0 < delay <= 2
        assert all(len(made.result().masks) == 1 for made in calls)
    assert counted(metrics)["cass_rejections_total", "requests"] == 1


def test_health_and_information_are_for_a_full_server_too() -> None:
    engine = Held()
    with service(engine, Limits(requests_in_flight=1)) as stub, held(stub, engine):
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        assert info.limits.requests_in_flight == 1


def test_more_bytes_than_the_limit_are_refused() -> None:
    """Of message and answer: what is held has over 128 of them, and one more has over 64."""
    engine, metrics = Held(), Metrics()
    with service(engine, Limits(queue_bytes=SMALL), metrics) as stub:
        with held(stub, engine), pytest.raises(grpc.RpcError) as caught:
            stub.GenerateMask(mask_request(), timeout=LIMIT)
        message, delay = told(caught.value)
        assert message == f"the server is full: {SMALL} bytes of requests and answers at most"
        assert 0 < delay <= 2
        wait_until(lambda: succeeds(stub))
    assert counted(metrics)["cass_rejections_total", "bytes"] >= 1


def test_alone_a_request_may_have_any_number_of_bytes() -> None:
    with service(limits=Limits(queue_bytes=1)) as stub:
        assert len(stub.GenerateMask(mask_request(), timeout=LIMIT).masks) == 1


@pytest.mark.parametrize("limits", [Limits(requests_in_flight=1), Limits(queue_bytes=1)])
def test_a_stream_waits_for_room(limits: Limits) -> None:
    engine, metrics = Held(), Metrics()
    writer: Writer[pb.StreamMasksRequest] = Writer()
    with service(engine, limits, metrics) as stub:
        with held(stub, engine):
            answers = stub.StreamMasks(iter(writer), timeout=LIMIT)
            writer.write(pb.StreamMasksRequest(request=mask_request()))
            wait_until(lambda: in_flight(metrics) == 2)
            assert engine.images == [HELD]
        answer = next(answers)
        assert answer.WhichOneof("result") == "masks"
        writer.close()
        assert list(answers) == []
    assert requests_counted(metrics) == {("GenerateMask", "OK"): 1, ("StreamMasks", "OK"): 1}


def end_well(stub: Any, engine: Held) -> None:
    stub.GenerateMask(mask_request(), timeout=LIMIT)


def end_as_a_failure(stub: Any, engine: Held) -> None:
    with pytest.raises(grpc.RpcError, match="internal error"):
        stub.GenerateMask(mask_request(FAILING), timeout=LIMIT)


def end_as_a_bad_request(stub: Any, engine: Held) -> None:
    with pytest.raises(grpc.RpcError, match="feature_map"):
        stub.GenerateMask(mask_request(maps=0), timeout=LIMIT)


def end_cancelled(stub: Any, engine: Held) -> None:
    with held(stub, engine) as calls:
        calls[0].cancel()
        wait_until(lambda: succeeds(stub))


def end_by_deadline(stub: Any, engine: Held) -> None:
    with held(stub, engine, timeout=1) as calls:
        assert calls[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: succeeds(stub))


@pytest.mark.parametrize(
    "end", [end_well, end_as_a_failure, end_as_a_bad_request, end_cancelled, end_by_deadline]
)
def test_a_place_is_given_back(end: Callable[[Any, Held], None]) -> None:
    """The only one, twice."""
    for _ in range(2):
        engine = Held()
        with service(engine, Limits(requests_in_flight=1)) as stub:
            end(stub, engine)
            wait_until(lambda: succeeds(stub))


def test_a_refusal_comes_before_the_message() -> None:
    """The caller has sent none by then."""
    engine = Held()
    limits = Limits(requests_in_flight=1)
    messages: queue.Queue[bytes | None] = queue.Queue()
    with service_channel(engine, limits) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        with held(stub, engine):
            ask = channel.stream_unary("/cass.v1.CassService/GenerateMask")
            with pytest.raises(grpc.RpcError) as caught:
                ask(iter(messages.get, None), timeout=LIMIT)
            messages.put(None)
    told(caught.value)


@pytest.mark.parametrize("way", ["deadline", "cancel"])
def test_who_has_gone_is_not_computed(way: str) -> None:
    """All threads are busy until the caller has gone; a later request has its turn after that."""
    engine, metrics = Held(), Metrics()
    with service(engine, metrics=metrics) as stub:
        with held(stub, engine, THREADS):
            late = stub.GenerateMask.future(mask_request(3), timeout=1 if way == "deadline" else 60)
            if way == "cancel":
                wait_until(lambda: in_flight(metrics) == THREADS + 1)
                late.cancel()
            else:
                assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            wait_until(lambda: in_flight(metrics) == THREADS)
        stub.GenerateMask(mask_request(), timeout=LIMIT)
    assert sorted(engine.images) == [1, *[HELD] * THREADS]
    assert counted(metrics)["cass_rejections_total", "cancelled"] == 1


def test_calls_that_come_while_the_loop_is_busy_are_counted_before_they_are_worked_on() -> None:
    """gRPC hands them over one by one: else each would be answered before the next is seen."""
    calls, most = 20, 4
    limits, metrics = Limits(requests_in_flight=most), Metrics()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            gate = Gate(None, metrics, ())
            CassService(CpuEngine(), limits, executor, Admission(limits), metrics).add_to(gate)
            server = grpc.aio.server(handlers=(gate,))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            # These block the loop. A ping is answered once all that came before it is taken in.
            with Connection(f"127.0.0.1:{port}") as connection:
                connection.send(opening())
                message = prefixed(mask_request().SerializeToString())
                for stream in range(1, 2 * calls, 2):
                    connection.send(call("GenerateMask", stream), data_frames(message, stream))
                connection.send(frame(PING, payload=bytes(8)))
                while connection.read()[:2] != (PING, 1):  # type: ignore[index]
                    pass
                await asyncio.to_thread(ends, connection, calls)
            await server.stop(None)

    def ends(connection: Connection, number: int) -> None:
        while number:
            got = connection.read()
            assert got is not None
            number -= bool(got[1] & END_STREAM) and got[0] != PING

    in_loop(run)
    told = requests_counted(metrics)
    assert sum(told.values()) == calls
    # Sixteen, unless the system lets gRPC's own thread wait meanwhile.
    assert told.get(("GenerateMask", "RESOURCE_EXHAUSTED"), 0) > 0


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    """Run it with a hard limit."""
    asyncio.run(asyncio.wait_for(test(), LIMIT))


async def settle() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_the_line_is_first_come_first_served() -> None:
    async def run() -> None:
        admission = Admission(Limits(requests_in_flight=1))
        order: list[int] = []

        async def enter(number: int) -> None:
            ticket = await admission.enter_in_turn()
            order.append(number)
            await asyncio.sleep(0)
            ticket.leave()

        first = admission.enter()
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(enter(number)))
            await asyncio.sleep(0)
        await settle()
        assert order == []
        first.leave()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    in_loop(run)


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("is_woken", [False, True])
def test_who_leaves_the_line_holds_up_nobody(gone: int, is_woken: bool) -> None:
    """Whether or not room was made for the one who leaves."""

    async def run() -> None:
        admission = Admission(Limits(requests_in_flight=1))
        first = admission.enter()
        tasks = [asyncio.create_task(admission.enter_in_turn()) for _ in range(3)]
        await settle()
        if is_woken:
            first.leave()
        tasks[gone].cancel()
        first.leave()
        for task in (task for task in tasks if task is not tasks[gone]):
            (await task).leave()
        assert tasks[gone].cancelled()
        admission.enter()

    in_loop(run)


def test_who_is_first_stays_first_while_others_take_the_room() -> None:
    async def run() -> None:
        admission = Admission(Limits(requests_in_flight=1))
        taken = admission.enter()
        first, second = (asyncio.create_task(admission.enter_in_turn()) for _ in range(2))
        await settle()
        for _ in range(3):
            taken.leave()
            taken = admission.enter()
            await settle()
            assert not first.done()
        taken.leave()
        (await first).leave()
        await second

    in_loop(run)


def test_a_large_request_is_not_overtaken_in_the_line_for_bytes() -> None:
    async def run() -> None:
        admission = Admission(Limits(queue_bytes=10))
        small, large, late = (admission.enter() for _ in range(3))
        admission.hold(small, 6)
        for_large = asyncio.create_task(admission.hold_in_turn(large, 100))
        await settle()
        for_late = asyncio.create_task(admission.hold_in_turn(late, 1))
        await settle()
        assert not for_large.done()
        assert not for_late.done()
        small.leave()
        await for_large
        await settle()
        assert not for_late.done()
        large.leave()
        await for_late

    in_loop(run)


def test_who_tries_passes_nobody_in_the_line() -> None:
    """Though a place is free, and there is room, until the first of the line takes them."""

    async def run() -> None:
        admission = Admission(Limits(requests_in_flight=1))
        taken = admission.try_enter()
        assert taken is not None
        assert admission.try_enter() is None
        first = asyncio.create_task(admission.enter_in_turn())
        await settle()
        taken.leave()
        assert admission.try_enter() is None
        (await first).leave()
        assert admission.try_enter() is not None

        admission = Admission(Limits(queue_bytes=10))
        small, large, late = (admission.enter() for _ in range(3))
        assert admission.try_hold(small, 6)
        assert not admission.try_hold(large, 5)
        holding = asyncio.create_task(admission.hold_in_turn(large, 5))
        await settle()
        small.leave()
        assert not admission.try_hold(late, 1)
        await holding
        assert admission.try_hold(late, 5)

    in_loop(run)


def test_callers_are_told_to_come_back_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still, once one request has taken 0.4 s in one of two places."""
    clock = 1000.0
    monkeypatch.setattr(admission_module.time, "monotonic", lambda: clock)
    admission = Admission(Limits(requests_in_flight=2))
    for _ in range(200):  # until the average is known
        ticket = admission.enter()
        clock += 0.4
        ticket.leave()
    admission.enter(), admission.enter()

    def refused() -> float:
        with pytest.raises(Overloaded) as caught:
            admission.enter()
        return caught.value.delay

    # A place is free every 0.2 s, and every sixth is for one who comes back; 2 s is the most.
    assert [refused() for _ in range(3)] == pytest.approx([1.2, 2.0, 2.0], rel=1e-3)
    clock += 1.7
    assert refused() == pytest.approx(0.3 + 1.2, rel=1e-3)


def test_the_first_refusals_have_a_delay_too() -> None:
    admission = Admission(Limits(requests_in_flight=1))
    admission.enter()
    with pytest.raises(Overloaded) as caught:
        admission.enter()
    assert caught.value.delay == 0.01


class Rooms(RuleBasedStateMachine):
    """Any order of entering, holding and leaving, beside two sums."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        """Empty."""
        super().__init__()
        self.admission = Admission(Limits(requests_in_flight=3, queue_bytes=10))
        self.held: dict[Ticket, int] = {}

    @rule(target=tickets)
    def enter(self) -> Any:
        """There is room for three."""
        if len(self.held) == 3:
            with pytest.raises(Overloaded, match="3 requests"):
                self.admission.enter()
            return None
        ticket = self.admission.enter()
        self.held[ticket] = 0
        return ticket

    @rule(ticket=tickets, size=st.integers(0, 25))
    def hold(self, ticket: Ticket | None, size: int) -> None:
        """There is room for ten, or for one who is alone."""
        if ticket not in self.held or self.held[ticket]:
            return
        total = sum(self.held.values())
        if total and total + size > 10:
            assert not self.admission.try_hold(ticket, size)
            with pytest.raises(Overloaded, match="10 bytes"):
                self.admission.hold(ticket, size)
        else:
            self.admission.hold(ticket, size)
            self.held[ticket] = size

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket | None) -> None:
        """Twice makes no difference."""
        if ticket is not None:
            ticket.leave()
            ticket.leave()
            del self.held[ticket]

    @invariant()
    def is_full_at_three(self) -> None:
        """As told."""
        assert self.admission.is_full() == (len(self.held) == 3)


Rooms.TestCase.settings = settings(max_examples=50, deadline=None)
TestRooms = Rooms.TestCase


def test_a_full_pace_lets_one_go_at_a_time() -> None:
    """In their order, past who is gone; a call that comes in between is seen before the next."""

    async def run() -> None:
        pace = Pace(is_full=lambda: True)
        order: list[str] = []

        async def request(name: str) -> None:
            await pace.turn()
            order.append(name)
            asyncio.get_running_loop().call_soon(call_comes)

        def call_comes() -> None:
            pace.seen()
            order.append("seen")

        tasks = [asyncio.create_task(request(name)) for name in "abcd"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        await settle()
        assert order == ["a", "seen", "c", "seen", "d", "seen"]

    in_loop(run)


def test_refusals_do_not_hold_up_requests_for_ever() -> None:
    """A flood in which every pass of the loop brings a call."""

    async def run() -> None:
        pace = Pace(is_full=lambda: True)
        flooding = True

        def flood() -> None:
            pace.seen()
            if flooding:
                asyncio.get_running_loop().call_soon(flood)

        flood()
        for _ in range(3):
            await pace.turn()
        flooding = False

    in_loop(run)
