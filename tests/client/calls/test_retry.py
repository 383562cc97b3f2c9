"""When a call is tried again within its deadline, by a clock of the test's."""

from __future__ import annotations

import grpc
import pytest

from cass_client.calls import retry
from cass_client.calls.retry import Attempts
from cass_client.errors import Overloaded, ServerError, Timeout, Unavailable


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 50.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retry, "time", made)
    return made


class Status(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


def server_error(code: grpc.StatusCode) -> ServerError:
    error = ServerError(code.name)
    error.__cause__ = Status(code)
    return error


def test_a_first_try_that_hangs_leaves_time_for_a_second(clock: Clock) -> None:
    attempts = Attempts(10)
    assert attempts.timeout() == 5
    clock.seconds += 5
    assert attempts.delay_after(Timeout("late")) == 0
    assert attempts.timeout() == 5
    clock.seconds += 5
    with pytest.raises(Timeout, match="late"):
        attempts.delay_after(Timeout("late"))


def test_a_full_server_says_when(clock: Clock) -> None:
    attempts = Attempts(10)
    delays = {attempts.delay_after(Overloaded("full", 0.4)) for _ in range(50)}
    assert 0.4 <= min(delays) < max(delays) <= 0.5  # not all at the same moment
    clock.seconds += 9.7
    with pytest.raises(Overloaded):
        attempts.delay_after(Overloaded("full", 0.4))


def test_what_a_server_dropped_is_asked_again_ever_later(clock: Clock) -> None:
    attempts = Attempts(10)
    cancelled = server_error(grpc.StatusCode.CANCELLED)
    for least in (0.05, 0.1, 0.2, 0.4):
        assert least <= attempts.delay_after(cancelled) <= 1.25 * least
    clock.seconds += 9.3
    with pytest.raises(ServerError):
        attempts.delay_after(cancelled)


def test_a_refusal_that_does_not_say_when_is_waited_out_ever_longer(clock: Clock) -> None:
    longest = [0.0] * 8
    for _ in range(200):
        attempts = Attempts(10)
        for i in range(8):
            longest[i] = max(longest[i], attempts.delay_after(Overloaded("full")))
    for delay, limit in zip(longest, (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1), strict=True):
        assert 0.8 * limit < delay <= limit
    assert attempts.delay_after(Overloaded("full")) >= 0.5
    clock.seconds += 9.6
    with pytest.raises(Overloaded):
        attempts.delay_after(Overloaded("full"))


def test_what_cannot_be_reached_is_tried_for_three_seconds(clock: Clock) -> None:
    attempts, error = Attempts(10), Unavailable("gone")
    for least in (0.02, 0.2, 0.4, 0.8, 1.6):
        delay = attempts.delay_after(error)
        assert least <= delay <= 1.25 * least
        clock.seconds += delay
    assert 53 < clock.seconds < 54
    with pytest.raises(Unavailable) as caught:
        attempts.delay_after(error)
    assert caught.value is error


def test_what_cannot_be_reached_has_not_hung(clock: Clock) -> None:
    """The next one may: it leaves time for another again."""
    attempts = Attempts(10)
    assert attempts.timeout() == 5
    clock.seconds += 2
    attempts.delay_after(Unavailable("gone"))
    assert attempts.timeout() == pytest.approx(4, abs=0.01)
    clock.seconds += 4
    assert attempts.delay_after(Timeout("late")) == 0
    assert attempts.timeout() == 4


def test_a_failing_server_is_not_tried_again(clock: Clock) -> None:
    error = server_error(grpc.StatusCode.INTERNAL)
    with pytest.raises(ServerError) as caught:
        Attempts(10).delay_after(error)
    assert caught.value is error


def test_there_is_always_some_time(clock: Clock) -> None:
    attempts = Attempts(10)
    attempts.timeout()
    clock.seconds += 11
    assert attempts.timeout() == 0.001
