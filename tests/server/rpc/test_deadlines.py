"""The end of calls whose peers do not do in time what is waited for."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import threading
import time
import types
import weakref

import pytest

from cass_server.rpc import deadlines as deadlines_module
from cass_server.rpc.deadlines import Deadlines
from tests.server.support.processes import LIMIT


class Clock:
    """A time that the test sets; who looks at it sleeps until the test lets it look.

    The threads of earlier `Deadlines`, of other tests in this process, keep the real time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._go = threading.Semaphore(0)
        self._sleeps = threading.Semaphore(0)
        self._earlier = {t.ident for t in threading.enumerate() if t.name == "stalled peers"}

    def monotonic(self) -> float:
        return time.monotonic() if threading.get_ident() in self._earlier else self.now

    def sleep(self, seconds: float) -> None:
        """Wait for `look`."""
        if threading.get_ident() in self._earlier:
            time.sleep(seconds)
            return
        self._sleeps.release()
        self._go.acquire()

    def wait_asleep(self) -> None:
        """Wait until whoever looks at it sleeps."""
        assert self._sleeps.acquire(timeout=LIMIT)

    def look(self, now: float) -> None:
        """Let it look at this time, and wait until it has done what there is to do."""
        self.now = now
        self._go.release()
        self.wait_asleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    fake = types.SimpleNamespace(monotonic=made.monotonic, sleep=made.sleep)
    monkeypatch.setattr(deadlines_module, "time", fake)
    return made


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    made = Deadlines()
    clock.wait_asleep()
    return made


class Peer:
    """Counts how often its call was cancelled; as a call's `cancel` is, each is made anew."""

    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def test_calls_are_cancelled_once_when_their_time_is_over(
    clock: Clock, deadlines: Deadlines, caplog: pytest.LogCaptureFixture
) -> None:
    """Each at its own time, but for those that were stopped before."""
    peers, quick = [Peer() for _ in range(3)], Peer()
    for peer, seconds in zip([*peers, quick], (30, 10, 20, 10), strict=True):
        deadlines.start(peer.cancel, seconds)
    seen = []
    with caplog.at_level(logging.DEBUG, "cass_server"):
        for now in (9.9, 10, 20, 30, 100):
            clock.look(now)
            if now < 10:
                assert deadlines.stop(quick.cancel)
            seen.append([peer.cancelled for peer in peers])
    assert seen == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert quick.cancelled == 0
    assert not any(deadlines.stop(peer.cancel) for peer in (*peers, quick))
    assert caplog.messages == ["peer stalled, call cancelled"] * 3


def test_what_is_begun_anew_has_its_whole_time(clock: Clock, deadlines: Deadlines) -> None:
    """As the answers of a stream have."""
    peer = Peer()
    for now in (0, 9, 18):
        clock.look(now)
        deadlines.start(peer.cancel, 10)
    clock.look(27)
    assert peer.cancelled == 0
    clock.look(28)
    assert peer.cancelled == 1


@pytest.mark.parametrize("fails", [False, True])
def test_within(fails: bool, clock: Clock, deadlines: Deadlines) -> None:
    """What is done within is late if it lasts; what has ended, however, is not."""
    late, quick = Peer(), Peer()

    def run(peer: Peer, lasts: float) -> None:
        with (
            pytest.raises(queue.Empty) if fails else contextlib.nullcontext(),
            deadlines.within(peer.cancel, 10),
        ):
            clock.look(lasts)
            if fails:
                raise queue.Empty

    run(late, 10)
    run(quick, 11)
    clock.look(100)
    assert (late.cancelled, quick.cancelled) == (1, 0)


def test_one_that_stops_while_others_are_cancelled_is_not(
    clock: Clock, deadlines: Deadlines
) -> None:
    """Both are late; what the first one's end leads to comes after the second was seen."""
    second = Peer()
    was_in_time = []
    deadlines.start(lambda: was_in_time.append(deadlines.stop(second.cancel)), 10)
    deadlines.start(second.cancel, 10)
    clock.look(10)
    # Either it was in time, or it was cancelled.
    assert was_in_time == [not second.cancelled]


@pytest.mark.parametrize("in_time", [True, False])
def test_a_call_that_has_ended_is_not_kept(
    in_time: bool, clock: Clock, deadlines: Deadlines
) -> None:
    peer = Peer()
    watched = weakref.ref(peer)
    deadlines.start(peer.cancel, 10)
    if in_time:
        deadlines.stop(peer.cancel)
    clock.look(10)
    del peer
    # One round more, since the last one's names are gone by then.
    clock.look(20)
    clock.look(30)
    gc.collect()
    assert watched() is None
