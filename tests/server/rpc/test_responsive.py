"""Callers that take long, send nothing or read nothing keep a server from nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from tests.server.support.engines import HELD, HoldingEngine
from tests.server.support.in_thread import SLOTS, Running, running
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    call,
    data_frames,
    frames,
    more,
    opening,
    prefixed,
    request,
)
from tests.server.support.requests import mask_request
from tests.support.programs import printed

# With so many cells along each side, an answer of 256 KiB.
LARGE = mask_request(side=256)
MANY = range(1, 129, 2)
"""Numbers of 64 HTTP/2 streams, as many as a server lets one connection have."""
HALF = prefixed(mask_request().SerializeToString())[:20]


def answers_all(server: Running, times: int = 20) -> None:
    """Health checks and single calls are answered, so many of each."""
    for _ in range(times):
        assert server.health_check()
        assert server.has_room()
    assert server.has_room(side=256)


@contextlib.contextmanager
def connections(server: Running, number: int, window: int = 65535) -> Iterator[list[Connection]]:
    """So many, of which each stream takes so many bytes."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Connection(server.address)) for _ in range(number)]
        for client in opened:
            client.send(opening(window))
        yield opened


def test_health_is_answered_while_all_slots_compute() -> None:
    """And more requests wait for theirs."""
    engine = HoldingEngine()
    with running(engine) as server:
        with engine.holding(server.stub, SLOTS + 2) as calls:
            for _ in range(20):
                assert server.health_check()
            assert not any(call.done() for call in calls)
        assert [len(call.result().masks) for call in calls] == [1] * (SLOTS + 2)


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss", "GetServerInfo", "StreamMasks"])
@pytest.mark.parametrize("sent", [b"", HALF], ids=["nothing", "half a message"])
def test_callers_that_send_nothing(method: str, sent: bytes) -> None:
    """As many as may be in flight, twice, beside one slot: they take neither that nor a place."""
    with running(slots=1) as server, connections(server, 2) as clients:
        for client in clients:
            for stream in MANY:
                client.send(call(method, stream), data_frames(sent, stream, end=False))
            client.wait_read()
        answers_all(server)
        assert server.ended()["GenerateMask", "OK"] == 21


@pytest.mark.parametrize("sent", [b"", HALF], ids=["nothing", "half a message"])
def test_callers_that_send_nothing_are_sent_away(sent: bytes) -> None:
    limits = Limits(receive_seconds=0.5)
    with running(limits=limits) as server, connections(server, 1) as (client,):
        for stream in MANY:
            client.send(call("GenerateMask", stream), data_frames(sent, stream, end=False))
        assert {got[2] for got in frames(client, RST_STREAM, len(MANY))} == set(MANY)
        server.wait_in_flight(0)
        # As given up, or as one too many of those that are at once.
        wait_until(lambda: sum(server.ended().values()) == len(MANY))
        assert {code for _, code in server.ended()} <= {"CANCELLED", "RESOURCE_EXHAUSTED"}
        answers_all(server, 1)


def test_a_message_that_is_in_time_is_answered() -> None:
    """Piece by piece, to the end; and the time that it had is no limit to its answer."""
    engine = HoldingEngine()
    limits = Limits(receive_seconds=2)
    data = request("GenerateMask", mask_request(HELD))
    with running(engine, limits) as server, connections(server, 1) as (client,):
        for at in range(0, len(data), 10):
            client.send(data[at : at + 10])
        engine.gate.wait_held()
        # Others that begin now are sent away, and it is not.
        client.send(call("GenerateMask", 3))
        assert frames(client, RST_STREAM, 1)[0][2] == 3
        engine.gate.open()
        answer = pb.GenerateMaskResponse.FromString(client.answer())
        assert list(answer.masks[0].shape) == [HELD, 4, 4]


@pytest.mark.parametrize("window", [0, 1000])
@pytest.mark.parametrize("asked", [mask_request(), LARGE], ids=["small", "large"])
def test_callers_that_read_nothing(window: int, asked: pb.GenerateMaskRequest) -> None:
    """Their answers are computed, wait for them, and keep nobody else from one."""
    limits = Limits(requests_in_flight=2 * len(MANY))
    with running(limits=limits) as server, connections(server, 2, window) as clients:
        for client in clients:
            client.send(*[request("GenerateMask", asked, stream) for stream in MANY])
        computed = ("cass_images_total",)
        wait_until(lambda: server.counted().get(computed) == 2 * len(MANY))
        answers_all(server)


def test_callers_that_do_not_take_a_large_answer_are_sent_away() -> None:
    """And its bytes are free then."""
    limits = Limits(requests_in_flight=len(MANY), send_seconds=0.5)
    with running(limits=limits) as server, connections(server, 1, 1000) as (client,):
        client.send(*[request("GenerateMask", LARGE, stream) for stream in MANY])
        assert {got[2] for got in frames(client, RST_STREAM, len(MANY))} == set(MANY)
        server.assert_all_is_given_back()


def test_an_answer_that_is_taken_in_time_is_whole() -> None:
    """Though it is taken bit by bit; others that are not are sent away meanwhile."""
    limits = Limits(send_seconds=3)
    with running(limits=limits) as server, connections(server, 1, 1000) as (client,):
        client.send(*[request("GenerateMask", LARGE, stream) for stream in (1, 3)])
        received, ended = b"", False
        while not ended:
            got = client.read()
            assert got is not None
            kind, flags, stream, payload = got
            if kind == DATA and stream == 1:
                received += payload
                client.send(more(20_000, 1), more(20_000, 0))
            ended = stream == 1 and kind == HEADERS and bool(flags & END_STREAM)
        assert len(pb.GenerateMaskResponse.FromString(received[5:]).masks[0].data) == 256 << 10
        assert frames(client, RST_STREAM, 1)[0][2] == 3


def test_a_slow_reader_holds_up_nothing_else_on_its_connection() -> None:
    with running() as server, connections(server, 1, 1000) as (client,):
        client.send(request("GenerateMask", LARGE))
        assert sum(len(got[3]) for got in frames(client, DATA, 1)) <= 1000
        for stream in (3, 5, 7):
            client.send(request("GenerateMask", mask_request(), stream))
            assert pb.GenerateMaskResponse.FromString(client.answer(stream)).masks


def test_idle_streams_and_watches_hold_up_nothing() -> None:
    """500 streams, which have had an answer each, and 100 watches; beside two slots."""
    message = prefixed(pb.StreamMasksRequest(request=mask_request()).SerializeToString())
    streams = range(1, 101, 2)
    with running(slots=2) as server, connections(server, 12) as clients:
        *streaming, first, second = clients
        for client in streaming:
            for stream in streams:
                client.send(call("StreamMasks", stream), data_frames(message, stream, end=False))
            assert {got[2] for got in frames(client, DATA, 50)} == set(streams)
        for client in (first, second):
            for stream in streams:
                client.send(call("Watch", stream, service="grpc.health.v1.Health"))
                client.send(data_frames(prefixed(b""), stream))
            frames(client, DATA, 50)
        answers_all(server)
        # And they are there as before.
        streaming[0].send(data_frames(message, 51))
        frames(streaming[0], DATA, 1)
        server.health.set(serving=True)
        for client in (first, second):
            assert {got[2] for got in frames(client, DATA, 50)} == set(streams)


def test_streams_that_compute_share_the_slots() -> None:
    """All slots are taken by streams; single calls that come then wait, and are answered."""
    engine = HoldingEngine()
    entry = pb.StreamMasksRequest(request=mask_request(HELD))
    with running(engine, slots=2) as server:
        streams = [server.stub.StreamMasks(iter([entry]), timeout=LIMIT) for _ in range(3)]
        engine.gate.wait_held(2)
        waiting = server.stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        server.wait_in_flight(4)
        assert not waiting.done()
        assert engine.images == [HELD, HELD]
        engine.gate.open()
        assert [len(list(answers)) for answers in streams] == [1, 1, 1]
        assert waiting.result(timeout=LIMIT).masks


# A server that stops as soon as it serves, and prints what a full collection leaves alone.
UNTIL_SERVING = """
import gc, os, signal
from cass_server.engines.base import CpuEngine
from cass_server.observability.metrics import Metrics
from cass_server.rpc.server import serve
from cass_server.config.settings import Settings

def serving(address):
    print(gc.get_freeze_count(), len(gc.get_objects()))
    os.kill(os.getpid(), signal.SIGTERM)

settings = Settings(port=0, device="cpu")
code = serve(settings, CpuEngine(), Metrics(), 0, shared=False, serving=serving)
os._exit(code or print(end="", flush=True) or 0)
"""


def test_what_is_loaded_is_not_looked_through_for_garbage() -> None:
    """A hundred thousand objects, which would take longer than the largest step of a request."""
    frozen, others = map(int, printed("-c", UNTIL_SERVING).split())
    assert others < frozen / 10
