"""Callers that take long, send nothing or read nothing keep a server from nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from tests.server.support.calls import counted, in_flight, requests_counted
from tests.server.support.engines import HELD, Held
from tests.server.support.in_thread import SLOTS, Running, connected, running
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    Connection,
    call,
    data_frames,
    frame,
    frames,
    more,
    opening,
    prefixed,
)
from tests.server.support.requests import mask_request
from tests.support.programs import printed

# With so many cells along each side, an answer of 256 KiB.
LARGE = 256
MANY = range(1, 129, 2)
"""Numbers of 64 HTTP/2 streams, as many as a server lets one connection have."""


def answers_all(server: Running, times: int = 20) -> None:
    """Health checks and single calls are answered, so many of each."""
    with connected(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        stub = cass_pb2_grpc.CassServiceStub(channel)
        for _ in range(times):
            assert check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status
            assert stub.GenerateMask(mask_request(), timeout=LIMIT).masks
        assert stub.GenerateMask(mask_request(side=LARGE), timeout=LIMIT).masks


@contextlib.contextmanager
def connections(server: Running, number: int, window: int = 65535) -> Iterator[list[Connection]]:
    """So many, of which each stream takes so many bytes."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Connection(server.address)) for _ in range(number)]
        for client in opened:
            client.send(opening(window))
        yield opened


def pinged(client: Connection) -> None:
    """Wait until the server has read all that was sent."""
    client.send(frame(PING, payload=bytes(8)))
    frames(client, PING, 1)


def test_health_is_told_while_all_slots_compute() -> None:
    """And more requests wait for theirs."""
    engine = Held()
    with running(engine) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        calls = [
            stub.GenerateMask.future(mask_request(HELD), timeout=LIMIT) for _ in range(SLOTS + 2)
        ]
        for _ in range(SLOTS):
            assert engine.waiting.acquire(timeout=LIMIT)
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            for _ in range(20):
                assert check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status
            assert not any(call.done() for call in calls)
        finally:
            engine.go.set()
        assert [len(call.result(timeout=LIMIT).masks) for call in calls] == [1] * (SLOTS + 2)


@pytest.mark.parametrize("method", ["GenerateMask", "ComputeLoss", "GetServerInfo", "StreamMasks"])
@pytest.mark.parametrize("sent", ["nothing", "half a message"])
def test_callers_that_send_nothing(method: str, sent: str) -> None:
    """As many as may be in flight, twice, beside one slot: they take neither that nor a place."""
    begun = prefixed(mask_request().SerializeToString())[:20] if sent != "nothing" else None
    with running(slots=1) as server, connections(server, 2) as clients:
        for client in clients:
            for stream in MANY:
                client.send(call(method, stream))
                if begun is not None:
                    client.send(data_frames(begun, stream, end=False))
            pinged(client)
        answers_all(server)
        assert counted(server.metrics)["cass_requests_total", "OK", "GenerateMask"] == 21


@pytest.mark.parametrize("sent", ["nothing", "half a message"])
def test_callers_that_send_nothing_are_sent_away(sent: str) -> None:
    begun = prefixed(mask_request().SerializeToString())[:20] if sent != "nothing" else None
    limits = Limits(receive_seconds=0.5)
    with running(limits=limits) as server, connections(server, 1) as (client,):
        for stream in MANY:
            client.send(call("GenerateMask", stream))
            if begun is not None:
                client.send(data_frames(begun, stream, end=False))
        assert {got[2] for got in frames(client, RST_STREAM, len(MANY))} == set(MANY)
        wait_until(lambda: in_flight(server.metrics) == 0)
        # As given up, or as one too many of those that are at once.
        wait_until(lambda: sum(requests_counted(server.metrics).values()) == len(MANY))
        codes = {code for _, code in requests_counted(server.metrics)}
        assert codes <= {"CANCELLED", "RESOURCE_EXHAUSTED"}
        answers_all(server, 1)


def test_a_message_that_is_in_time_is_answered() -> None:
    """Piece by piece, to the end; and the time that it had is no limit to its answer."""
    engine = Held()
    limits = Limits(receive_seconds=2)
    data = data_frames(prefixed(mask_request(HELD).SerializeToString()))
    with running(engine, limits) as server, connections(server, 1) as (client,):
        client.send(call("GenerateMask"))
        for at in range(0, len(data), 10):
            client.send(data[at : at + 10])
        assert engine.waiting.acquire(timeout=LIMIT)
        # Others that begin now are sent away, and it is not.
        client.send(call("GenerateMask", 3))
        assert frames(client, RST_STREAM, 1)[0][2] == 3
        engine.go.set()
        answer = pb.GenerateMaskResponse.FromString(client.answer())
        assert list(answer.masks[0].shape) == [HELD, 4, 4]


@pytest.mark.parametrize("window", [0, 1000])
@pytest.mark.parametrize("side", [4, LARGE])
def test_callers_that_read_nothing(window: int, side: int) -> None:
    """Their answers are computed, wait for them, and keep nobody else from one."""
    message = prefixed(mask_request(side=side).SerializeToString())
    limits = Limits(requests_in_flight=2 * len(MANY))
    with running(limits=limits) as server, connections(server, 2, window) as clients:
        for client in clients:
            client.send(*[call("GenerateMask", at) + data_frames(message, at) for at in MANY])
        computed = ("cass_images_total",)
        wait_until(lambda: counted(server.metrics).get(computed) == 2 * len(MANY))
        answers_all(server)


def test_callers_that_do_not_take_a_large_answer_are_sent_away() -> None:
    """And its bytes are free then."""
    message = prefixed(mask_request(side=LARGE).SerializeToString())
    limits = Limits(requests_in_flight=len(MANY), send_seconds=0.5)
    with running(limits=limits) as server, connections(server, 1, 1000) as (client,):
        client.send(*[call("GenerateMask", at) + data_frames(message, at) for at in MANY])
        assert {got[2] for got in frames(client, RST_STREAM, len(MANY))} == set(MANY)
        wait_until(lambda: server.admission.try_hold(1 << 60))


def test_an_answer_that_is_taken_in_time_is_whole() -> None:
    """Though it is taken bit by bit; others that are not are sent away meanwhile."""
    message = prefixed(mask_request(side=LARGE).SerializeToString())
    limits = Limits(send_seconds=3)
    with running(limits=limits) as server, connections(server, 1, 1000) as (client,):
        client.send(*[call("GenerateMask", at) + data_frames(message, at) for at in (1, 3)])
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
    large = prefixed(mask_request(side=LARGE).SerializeToString())
    small = prefixed(mask_request().SerializeToString())
    with running() as server, connections(server, 1, 1000) as (client,):
        client.send(call("GenerateMask"), data_frames(large))
        assert sum(len(got[3]) for got in frames(client, DATA, 1)) <= 1000
        for stream in (3, 5, 7):
            client.send(call("GenerateMask", stream), data_frames(small, stream))
            assert pb.GenerateMaskResponse.FromString(client.answer(stream)).masks


def test_idle_streams_and_watches_hold_up_nothing() -> None:
    """500 streams, which have had an answer each, and 100 watches; beside two slots."""
    entry = pb.StreamMasksRequest(request=mask_request())
    message = prefixed(entry.SerializeToString())
    with running(slots=2) as server, connections(server, 12) as clients:
        *streaming, first, second = clients
        for client in streaming:
            streams = range(1, 101, 2)
            for stream in streams:
                client.send(call("StreamMasks", stream), data_frames(message, stream, end=False))
            assert {got[2] for got in frames(client, DATA, 50)} == set(streams)
        for client in (first, second):
            for stream in range(1, 101, 2):
                client.send(call("Watch", stream, service="grpc.health.v1.Health"))
                client.send(data_frames(prefixed(b""), stream))
            frames(client, DATA, 50)
        answers_all(server)
        # And they are there as before.
        streaming[0].send(data_frames(message, 51))
        frames(streaming[0], DATA, 1)
        server.health.set(serving=True)
        for client in (first, second):
            assert {got[2] for got in frames(client, DATA, 50)} == set(range(1, 101, 2))


def test_streams_that_compute_share_the_slots() -> None:
    """All slots are taken by streams; single calls that come then wait, and are answered."""
    engine = Held()
    request = pb.StreamMasksRequest(request=mask_request(HELD))
    with running(engine, slots=2) as server, connected(server.address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        streams = [stub.StreamMasks(iter([request]), timeout=LIMIT) for _ in range(3)]
        for _ in range(2):
            assert engine.waiting.acquire(timeout=LIMIT)
        waiting = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until(lambda: in_flight(server.metrics) == 4)
        assert not waiting.done()
        assert engine.images == [HELD, HELD]
        engine.go.set()
        assert [len(list(answers)) for answers in streams] == [1, 1, 1]
        assert waiting.result(timeout=LIMIT).masks


# A server that stops as soon as it serves, and tells what a full collection leaves alone.
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
