"""The end of calls whose peers do not do in time what is waited for."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
import types
import weakref
from collections.abc import Callable

import pytest

from cass_server.rpc import deadlines as deadlines_module
from cass_server.rpc.deadlines import Deadlines
from tests.server.support.processes import LIMIT


class Clock:
    """A time that the test sets; who looks at it sleeps until the test lets it look.

    The threads of earlier `Deadlines`, of other tests in this process, keep the real time.

    Attributes:
        now: the time.
    """

    def __init__(self) -> None:
        """It is 0."""
        self.now = 0.0
        self._go = threading.Semaphore(0)
        self._sleeps = threading.Semaphore(0)
        self._earlier = {t.ident for t in threading.enumerate() if t.name == "stalled peers"}

    def monotonic(self) -> float:
        """The time."""
        return time.monotonic() if threading.get_ident() in self._earlier else self.now

    def sleep(self, seconds: float) -> None:
        """Wait for `look`."""
        if threading.get_ident() in self._earlier:
            time.sleep(seconds)
            return
        self._sleeps.release()
        self._go.acquire()

    def begin(self) -> None:
        """Wait until it sleeps for the first time."""
        assert self._sleeps.acquire(timeout=LIMIT)

    def look(self, now: float) -> None:
        """Let it look at this time, and wait until it has done what there is to do."""
        self.now = now
        self._go.release()
        assert self._sleeps.acquire(timeout=LIMIT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    fake = types.SimpleNamespace(monotonic=made.monotonic, sleep=made.sleep)
    monkeypatch.setattr(deadlines_module, "time", fake)
    return made


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    made = Deadlines()
    clock.begin()
    return made


class Peer:
    """Counts how often its call was cancelled; as a call's `cancel` is, each is made anew."""

    def __init__(self) -> None:
        """Never yet."""
        self.cancelled = 0

    def cancel(self) -> None:
        """Once more."""
        self.cancelled += 1


def test_who_is_late_is_cancelled_once(clock: Clock, deadlines: Deadlines) -> None:
    peer = Peer()
    deadlines.start(peer.cancel, 10)
    seen = []
    for now in (9.9, 10, 11, 100):
        clock.look(now)
        seen.append(peer.cancelled)
    assert seen == [0, 1, 1, 1]
    assert not deadlines.stop(peer.cancel)


def test_who_is_in_time_is_not(clock: Clock, deadlines: Deadlines) -> None:
    peer = Peer()
    deadlines.start(peer.cancel, 10)
    clock.look(9)
    assert deadlines.stop(peer.cancel)
    clock.look(11)
    assert peer.cancelled == 0
    assert not deadlines.stop(peer.cancel)


def test_each_has_its_own_time(clock: Clock, deadlines: Deadlines) -> None:
    peers = [Peer() for _ in range(3)]
    for peer, seconds in zip(peers, (30, 10, 20), strict=True):
        deadlines.start(peer.cancel, seconds)
    seen = []
    for now in (10, 20, 30):
        clock.look(now)
        seen.append([peer.cancelled for peer in peers])
    assert seen == [[0, 1, 0], [0, 1, 1], [1, 1, 1]]


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

    def use(peer: Peer, inside: Callable[[], None]) -> None:
        with deadlines.within(peer.cancel, 10):
            inside()
            if fails:
                raise queue.Empty

    def run(peer: Peer, inside: Callable[[], None]) -> None:
        if fails:
            with pytest.raises(queue.Empty):
                use(peer, inside)
        else:
            use(peer, inside)

    run(late, lambda: clock.look(10))
    run(quick, lambda: None)
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


@pytest.mark.parametrize("way", ["in time", "late"])
def test_a_call_that_has_ended_is_not_kept(way: str, clock: Clock, deadlines: Deadlines) -> None:
    peer = Peer()
    watched = weakref.ref(peer)
    deadlines.start(peer.cancel, 10)
    if way == "in time":
        deadlines.stop(peer.cancel)
    clock.look(10)
    del peer
    # One round more, since the last one's names are gone by then.
    clock.look(20)
    clock.look(30)
    gc.collect()
    assert watched() is None


def test_it_is_told_of_in_the_log(
    clock: Clock, deadlines: Deadlines, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    with caplog.at_level(logging.DEBUG, "cass_server"):
        deadlines.start(peer.cancel, 10)
        clock.look(10)
    assert [record.getMessage() for record in caplog.records] == ["peer stalled, call cancelled"]
