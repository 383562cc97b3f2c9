"""Streams of both clients: order, errors in the middle, ends, and what is taken ahead."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from cass_client import CassClient, InvalidRequest, MaskRequest
from tests.client.support.faults import MAP, SIZE, SPEC, ask, assert_right, on_a_loop, request
from tests.client.support.networks import BreakingProxy
from tests.server.support.observed import in_flight
from tests.server.support.processes import LIMIT, wait_until
from tests.support.servers import ServerProcess, serving

pytestmark = pytest.mark.timeout(120)

PATCHES = 1000
"""The most that the server takes; a batch of `request` has 480."""

Stream = Callable[..., Iterator[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving("--max-patches", str(PATCHES), "--metrics-port", "0") as server:
        yield server


def plain(
    address: str, requests: Iterable[Any], in_flight: int = 4, timeout: float = LIMIT
) -> Iterator[Any]:
    """Answers of `CassClient.stream_masks`."""
    with CassClient(address, timeout=timeout) as client:
        yield from client.stream_masks(requests, in_flight=in_flight)


@pytest.fixture(params=[plain, on_a_loop])
def stream(request: pytest.FixtureRequest) -> Stream:
    """Answers of one of the clients."""
    way: Stream = request.param
    return way


def test_a_stream_goes_on_where_it_broke(server: ServerProcess, stream: Stream) -> None:
    """Before the first answer, and in the middle of one, several times."""
    with BreakingProxy(server.address, [10, 4000, 20_000, 9000]) as proxy:
        answers = list(stream(proxy.address, map(request, range(40))))
        assert proxy.broke_all
    assert_right(answers, range(40))


def test_a_request_beyond_the_servers_limits(server: ServerProcess, stream: Stream) -> None:
    """Is told of in its place, after the answers to those before it."""
    large = MaskRequest([None], SIZE, (48, 80), SPEC)
    requests = [*map(request, range(5)), large, request(6)]
    answers = stream(server.address, requests)
    assert_right([next(answers) for _ in range(5)], range(5))
    with pytest.raises(InvalidRequest, match="patches") as caught:
        next(answers)
    assert caught.value.field == "feature_map"
    assert list(answers) == []


def test_a_request_beyond_any_message(server: ServerProcess) -> None:
    """Is the request's error, not an outage, after which masks would be made here."""
    huge = MaskRequest([None], (60_000, 60_000), (60_000, 60_000))
    with CassClient(server.address, timeout=LIMIT, fallback="local") as client:
        with pytest.raises(InvalidRequest) as caught:
            client.generate_mask(huge.boxes, huge.image_size, huge.feature_map)
        with pytest.raises(InvalidRequest) as streamed:
            next(client.stream_masks([huge]))
        assert str(streamed.value) == str(caught.value)
        assert "the server's limit is 1000" in str(streamed.value)
        assert_right([ask(client, 3)], [3])
        assert client.local_answers == 0


def test_a_batch_beyond_the_servers_limits_is_split(server: ServerProcess, stream: Stream) -> None:
    several = [request(seed) for seed in range(4)]
    large = MaskRequest(
        [b for one in several for b in one.boxes], SIZE, several[0].feature_map, SPEC
    )
    first, middle, last = stream(server.address, [request(7), large, request(8)])
    assert_right([first, *middle.reshape(4, 2, *middle.shape[1:]), last], [7, 0, 1, 2, 3, 8])


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (MaskRequest([[[9, 9, 1, 1]]], SIZE, MAP), InvalidRequest, "x2: is smaller"),
        ("boxes", InvalidRequest, "requests: must be of MaskRequest, got str"),
        (None, InvalidRequest, "requests: must be of MaskRequest, got NoneType"),
        (OSError("no disk"), OSError, "no disk"),
    ],
    ids=["bad", "no request", "None", "raised"],
)
def test_a_source_that_fails(
    server: ServerProcess, stream: Stream, bad: Any, error: type[Exception], text: str
) -> None:
    """After the answers to all that came before."""

    def source() -> Iterator[Any]:
        yield from map(request, range(5))
        if isinstance(bad, Exception):
            raise bad
        yield bad
        pytest.fail("was asked for more")

    answers = stream(server.address, source(), in_flight=16)
    assert_right([next(answers) for _ in range(5)], range(5))
    with pytest.raises(error, match=text):
        next(answers)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_than_in_flight_are_taken_ahead(
    server: ServerProcess, stream: Stream, in_flight: int
) -> None:
    taken = []

    def source() -> Iterator[MaskRequest]:
        for seed in range(12):
            taken.append(seed)
            yield request(seed)

    answers = stream(server.address, source(), in_flight=in_flight)
    assert taken == []
    for given in range(12):
        next(answers)
        assert len(taken) == min(12, given + in_flight)
    assert list(answers) == []


def test_stopped_half_way(server: ServerProcess, stream: Stream) -> None:
    """No thread is left, the source is not read on, and the server is free."""
    before = set(threading.enumerate())
    taken = itertools.count()
    answers = stream(server.address, map(request, taken))
    assert_right([next(answers) for _ in range(3)], range(3))
    answers.close()  # type: ignore[attr-defined]
    wait_until(lambda: set(threading.enumerate()) <= before)
    wait_until(lambda: in_flight(server) == 0)
    assert next(taken) <= 7
    assert multiprocessing.active_children() == []
    with CassClient(server.address, timeout=LIMIT) as client:
        assert_right([ask(client, 3)], [3])


def test_threads_end_with_the_streams_of_an_open_client(server: ServerProcess) -> None:
    with CassClient(server.address, timeout=LIMIT) as client:
        ask(client, 0)
        before = set(threading.enumerate())
        for masks in client.stream_masks(map(request, range(9))):
            assert_right([masks], [0])
            break
        with contextlib.suppress(ZeroDivisionError):
            for _ in client.stream_masks(map(request, range(9))):
                1 / 0  # noqa: B018
        wait_until(lambda: set(threading.enumerate()) <= before)
        assert_right([ask(client, 1)], [1])


@pytest.mark.slow
def test_a_stream_may_take_longer_than_a_call(server: ServerProcess, stream: Stream) -> None:
    """While the caller works with an answer, and while answers come."""
    end = time.monotonic() + 2.5
    taken: list[int] = []

    def source() -> Iterator[MaskRequest]:
        while len(taken) < 20 or time.monotonic() < end:
            taken.append(len(taken))
            yield request(taken[-1])

    answers = stream(server.address, source(), timeout=1)
    kept = [next(answers) for _ in range(3)]
    threading.Event().wait(1.2)
    kept += answers
    assert_right(kept, taken)
