"""Which calls end since their peers are slow, or since memory is short, and what is counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from cass_server.rpc import slow_peers as slow_peers_module
from tests.server.support.engines import HELD, HoldingEngine
from tests.server.support.in_thread import Running, running
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.raw_http2 import (
    DATA,
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

MANY = range(1, 65, 2)


def waits(server: Running, to: str, number: int) -> bool:
    """Whether so many calls wait for their callers."""
    return server.counted().get(("cass_waiting_calls", to), 0) == number


def test_small_answers_are_taken_in_time_too() -> None:
    """They are counted while they wait, and then sent away."""
    limits = Limits(requests_in_flight=len(MANY), send_seconds=1)
    with running(limits=limits) as server, Connection(server.address) as client:
        client.send(opening(0), *[request("GenerateMask", mask_request(), s) for s in MANY])
        wait_until(lambda: waits(server, "send", len(MANY)))
        assert {got[2] for got in frames(client, RST_STREAM, len(MANY))} == set(MANY)
        wait_until(lambda: waits(server, "send", 0))
        assert server.ended()["GenerateMask", "OK"] == len(MANY)


def test_a_stream_that_has_ended_is_taken_in_time() -> None:
    """Its end waits behind answers that fill the connection's buffers."""
    large = [request("GenerateMask", mask_request(side=2048), s) for s in (1, 3)]
    with (
        running(limits=Limits(send_seconds=1)) as server,
        Connection(server.address, receive_buffer=4096) as client,
    ):
        client.send(opening((1 << 31) - 1), more(1 << 30, 0), *large)
        wait_until(lambda: waits(server, "send", 2))
        client.send(call("StreamMasks", 5), data_frames(b"", 5))
        states = server.slow_peers._states
        wait_until(lambda: any(state.statused and state.peer.is_stream for state in states()))
        wait_until(lambda: not states())


def test_calls_whose_message_does_not_come_are_counted() -> None:
    with running() as server, Connection(server.address) as client:
        client.send(opening(), *[call("GenerateMask", s) for s in MANY])
        wait_until(lambda: waits(server, "receive", len(MANY)))


@pytest.mark.slow
def test_calls_of_other_services_have_their_time_too() -> None:
    """So that those who ask nothing do not hold the threads of others."""
    name = "grpc.reflection.v1alpha.ServerReflection"
    with (
        running(limits=Limits(receive_seconds=1), helper_threads=2) as server,
        Connection(server.address) as client,
    ):
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.ReflectionServicer([name]), server.router
        )
        silent = [call("ServerReflectionInfo", s, service=name) for s in (1, 3)]
        client.send(opening(), *silent)
        assert {got[2] for got in frames(client, RST_STREAM, 2)} == {1, 3}
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=LIMIT)
        assert [found.name for found in answer.list_services_response.service] == [name]


def test_a_stream_may_be_silent() -> None:
    """For longer than a message may take."""
    limits = Limits(receive_seconds=0.5)
    with running(limits=limits) as server, Connection(server.address) as client:
        client.send(opening(), call("StreamMasks", 1), call("GenerateMask", 3))
        assert frames(client, RST_STREAM, 1)[0][2] == 3
        entry = pb.StreamMasksRequest(request=mask_request()).SerializeToString()
        client.send(data_frames(prefixed(entry), 1, end=False))
        assert frames(client, DATA, 1)[0][2] == 1


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls are old enough to be ended; no look comes by itself."""
    monkeypatch.setattr(slow_peers_module, "_LOOK_SECONDS", 1e9)


def test_if_memory_is_short_the_newest_of_the_greediest_end(old: None) -> None:
    """Half of all calls; they may come again, as the status says."""
    with (
        running() as server,
        Connection(server.address) as greedy,
        Connection(server.address) as modest,
    ):
        for client, streams in ((greedy, (1, 3, 5)), (modest, (1,))):
            client.send(opening())
            for stream in streams:
                client.send(call("ComputeLoss", stream))
                client.wait_read()
        wait_until(lambda: len(server.slow_peers._states()) == 4)
        server.slow_peers._end_half(time.perf_counter() + 2e9)
        assert {got[2] for got in frames(greedy, HEADERS, 2)} == {3, 5}
        assert server.ended() == {("ComputeLoss", "RESOURCE_EXHAUSTED"): 2}
        # The others go on.
        for client in (greedy, modest):
            client.send(data_frames(prefixed(b""), 1))
            assert b"grpc-status\x013" in client.refusal(1)


def test_if_memory_is_short_silent_streams_end_last(old: None) -> None:
    with running() as server, Connection(server.address) as client:
        client.send(opening(), *[call("StreamMasks", s) for s in (1, 3)], call("ComputeLoss", 5))
        ended = []
        for left in (3, 2, 1):
            wait_until(lambda left=left: len(server.slow_peers._states()) == left)
            server.slow_peers._end_half(time.perf_counter() + 2e9)
            ended.append(frames(client, RST_STREAM, 1)[0][2])
        assert ended in ([5, 3, 1], [5, 1, 3])


def test_if_memory_is_short_for_long_silent_streams_end_too(old: None) -> None:
    """However many other calls there are to end."""
    with running() as server, Connection(server.address) as client:
        client.send(opening(), *[call("StreamMasks", s) for s in (1, 3)])
        client.send(*[call("ComputeLoss", s) for s in (5, 7)])
        wait_until(lambda: len(server.slow_peers._states()) == 4)
        server.slow_peers._end_half(time.perf_counter() + 2e9, spares_streams=False)
        ended = {got[2] for got in frames(client, RST_STREAM, 2)}
        assert len(ended & {1, 3}) == len(ended & {5, 7}) == 1
        wait_until(lambda: len(server.slow_peers._states()) == 2)


def test_if_memory_is_short_unread_answers_end(old: None) -> None:
    """Large ones too, whose end is sent after them; they count as refused for their bytes."""
    with running() as server, Connection(server.address) as client:
        client.send(opening(0), request("GenerateMask", mask_request(side=1024)))
        wait_until(lambda: any(map(slow_peers_module.is_sending, server.slow_peers._states())))
        server.slow_peers._end_half(time.perf_counter() + 2e9)
        assert frames(client, RST_STREAM, 1)[0][2] == 1
        assert server.counted()["cass_rejections_total", "bytes"] == 1


def test_what_is_not_ended_is_not_counted(old: None) -> None:
    """As a call whose message has come meanwhile."""
    engine = HoldingEngine()
    with running(engine) as server, engine.holding(server.stub) as (held,):
        (state,) = server.slow_peers._states()
        server.slow_peers._end(state)
        assert ("cass_rejections_total", "bytes") not in server.counted()
        engine.gate.open()
        assert held.result().masks[0].shape[0] == HELD


def test_short_memory_is_logged_and_streams_are_spared_for_a_second(
    old: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short, spared = [True], []
    with running() as server:
        peers = server.slow_peers
        monkeypatch.setattr(peers, "_is_short", lambda: short[0])
        monkeypatch.setattr(
            peers, "_end_half", lambda _, *, spares_streams: spared.append(spares_streams)
        )
        for now, short[0] in ((0, True), (0.9, True), (1.1, True), (1.2, False), (1.3, True)):
            peers._look_at_memory(now)
            assert server.admission.is_short == short[0]
    assert spared == [True, True, False, True]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_look_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and times go on to end calls."""
    with running(limits=Limits(receive_seconds=1)) as server, Connection(server.address) as client:

        def fails() -> bool:
            server.admission.is_short = True
            raise MemoryError

        monkeypatch.setattr(server.slow_peers, "_is_short", fails)
        client.send(opening(), call("ComputeLoss"))
        assert frames(client, RST_STREAM, 1)[0][2] == 1
        wait_until(lambda: not server.admission.is_short)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_computes_does_not_end(old: None) -> None:
    """However short memory is."""
    engine = HoldingEngine()
    with running(engine) as server, engine.holding(server.stub) as (held,):
        server.slow_peers._end_half(time.perf_counter() + 2e9)
        engine.gate.open()
        assert held.result().masks[0].shape[0] == HELD


def test_memory_is_short_beyond_what_the_limits_call_for(
    old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the bytes in flight, and 32 MiB; free memory that malloc keeps does not count."""
    memory = [1000, 0]
    most = 1200 + (32 << 20)
    monkeypatch.setattr(slow_peers_module, "resident_bytes", lambda: memory[0])
    monkeypatch.setattr(slow_peers_module, "free_bytes", lambda: memory[1])
    with running(limits=Limits(message_bytes=10, queue_bytes=100)) as server:
        peers = server.slow_peers
        assert not peers._is_short()  # no limit is set yet
        peers.bound_memory()
        seen = []
        for memory[:] in ((most, 0), (most + 1, 0), (most + 1, 1), (most + 99, 98)):
            seen.append(peers._is_short())
        assert seen == [False, True, False, True]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells it there")
def test_resident_memory_is_that_of_the_process() -> None:
    before = slow_peers_module.resident_bytes()
    block = b"x" * (64 << 20)
    after = slow_peers_module.resident_bytes()
    assert 60 << 20 < after - before < 70 << 20
    assert len(block) == 64 << 20
