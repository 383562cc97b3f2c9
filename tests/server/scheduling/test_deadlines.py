"""The end of calls whose peers do not do in time what is waited for."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import time
import weakref
from collections.abc import Callable

import pytest

from cass_server.scheduling.deadlines import Deadlines
from tests.server.support.processes import wait_until


class Peer:
    """Counts how often its call was cancelled; as a call's `cancel` is, each is made anew."""

    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


@pytest.fixture
def look(deadlines: Deadlines) -> Callable[[float], None]:
    """Looks for stalled peers, so many seconds from the test's begin.

    Its thread does so each half second, long before any of the times in these tests.
    """
    begin = time.monotonic()
    return lambda seconds: deadlines._end_stalled(begin + seconds)


def test_stalled_peers_are_looked_for(deadlines: Deadlines) -> None:
    peer = Peer()
    deadlines.start(peer.cancel, 0.0)
    wait_until(lambda: peer.cancelled == 1)


def test_a_call_that_cannot_be_cancelled_is_alone_with_that(
    deadlines: Deadlines, look: Callable[[float], None]
) -> None:
    """Those after it are cancelled, at this look and the next."""
    peers = [Peer() for _ in range(2)]

    def fails() -> None:
        raise ValueError("the call is over")

    deadlines.start(fails, 1000)
    for peer, seconds in zip(peers, (1000, 2000), strict=True):
        deadlines.start(peer.cancel, seconds)
    for now in (1500, 2500):
        look(now)
    assert [peer.cancelled for peer in peers] == [1, 1]


def test_calls_are_cancelled_once_when_their_time_is_over(
    deadlines: Deadlines, look: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each at its own time, but for those that were stopped before."""
    peers, quick = [Peer() for _ in range(3)], Peer()
    for peer, seconds in zip([*peers, quick], (3000, 1000, 2000, 1000), strict=True):
        deadlines.start(peer.cancel, seconds)
    seen = []
    with caplog.at_level(logging.DEBUG, "cass_server"):
        for now in (999, 1500, 2500, 3500, 9999):
            look(now)
            if now == 999:
                assert deadlines.stop(quick.cancel)
            seen.append([peer.cancelled for peer in peers])
    assert seen == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert quick.cancelled == 0
    assert not any(deadlines.stop(peer.cancel) for peer in (*peers, quick))
    assert caplog.messages == ["peer stalled, call cancelled"] * 3


def test_what_is_begun_anew_has_its_whole_time(
    deadlines: Deadlines, look: Callable[[float], None]
) -> None:
    """As the answers of a stream have."""
    peer = Peer()
    deadlines.start(peer.cancel, 1000)
    deadlines.start(peer.cancel, 3000)
    look(2000)
    assert peer.cancelled == 0
    look(4000)
    assert peer.cancelled == 1


@pytest.mark.parametrize("fails", [False, True])
def test_within(fails: bool, deadlines: Deadlines, look: Callable[[float], None]) -> None:
    """What is done within is late if it lasts; what has ended, however, is not."""
    late, quick = Peer(), Peer()
    for peer, lasts in ((late, 2000), (quick, 500)):
        with (
            pytest.raises(queue.Empty) if fails else contextlib.nullcontext(),
            deadlines.within(peer.cancel, 1000),
        ):
            look(lasts)
            if fails:
                raise queue.Empty
    look(9999)
    assert (late.cancelled, quick.cancelled) == (1, 0)


def test_one_that_stops_while_others_are_cancelled_is_not(
    deadlines: Deadlines, look: Callable[[float], None]
) -> None:
    """Both are late; what the first one's end leads to comes after the second was seen."""
    second = Peer()
    was_in_time = []
    deadlines.start(lambda: was_in_time.append(deadlines.stop(second.cancel)), 1000)
    deadlines.start(second.cancel, 1000)
    look(2000)
    # Either it was in time, or it was cancelled.
    assert was_in_time == [not second.cancelled]


@pytest.mark.parametrize("in_time", [True, False])
def test_a_call_that_has_ended_is_not_kept(
    in_time: bool, deadlines: Deadlines, look: Callable[[float], None]
) -> None:
    peer = Peer()
    watched = weakref.ref(peer)
    deadlines.start(peer.cancel, 1000)
    if in_time:
        deadlines.stop(peer.cancel)
    look(2000)
    del peer
    gc.collect()
    assert watched() is None
