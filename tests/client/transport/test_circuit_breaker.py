"""When a server that failed is asked again, by a clock of the test's."""

from __future__ import annotations

from cass_client.transport.circuit_breaker import CircuitBreaker


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_pauses_grow_until_the_server_answers() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert not breaker.is_open
    assert not breaker.take_probe()
    assert breaker.failed()
    for pause in (1, 2, 4, 8, 16, 30, 30):
        clock.seconds += pause - 0.01
        assert breaker.is_open
        assert not breaker.take_probe()
        clock.seconds += 0.01
        assert breaker.take_probe()
        assert not breaker.take_probe()  # one at a time
        assert not breaker.failed()  # it was open already
    clock.seconds += 30
    assert breaker.take_probe()
    breaker.probed()
    assert not breaker.is_open
    breaker.worked()
    # The next outage begins from the start.
    assert breaker.failed()
    clock.seconds += 1
    assert breaker.take_probe()


def test_a_server_that_answers_probes_alone_is_still_out() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert breaker.failed()
    for pause in (1, 2, 4):
        clock.seconds += pause - 0.01
        assert not breaker.take_probe()
        clock.seconds += 0.01
        assert breaker.take_probe()
        breaker.probed()
        assert not breaker.is_open
        assert not breaker.failed()  # the same outage: nobody is warned again
        assert not breaker.failed()  # another call of that time
        assert breaker.is_open


def test_calls_that_were_under_way_do_not_lengthen_the_pause() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert breaker.failed()
    assert not breaker.failed()
    assert not breaker.failed()
    clock.seconds += 1
    assert breaker.take_probe()
