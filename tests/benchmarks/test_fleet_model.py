"""The simulated fleet beside queueing theory: what is known of queues without simulating them."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean

import pytest

from benchmarks.fleet.model import REFUSAL_SECONDS, Costs, Fleet, Outcome, simulate
from benchmarks.fleet.plan import at_work

SECONDS = 1e-3  # of the replica's core, a call


def costs(spread: tuple[float, ...] = (1.0,), *, stages: int = 1, answer_bytes: int = 0) -> Costs:
    return Costs(
        pauses=(0.0,),
        rested=(SECONDS,),
        busy=SECONDS,
        client=0.0,
        spread=spread,
        answer_bytes=answer_bytes,
        stages=stages,
    )


def mean_seconds(outcome: Outcome) -> float:
    return fmean(took for _, took in outcome.answers)


def by_mean_value_analysis(loaders: int, think: float) -> tuple[float, float]:
    """Answers per second and mean seconds of a call, for exponential service times.

    M. Reiser and S. S. Lavenberg, Mean-Value Analysis of Closed Multichain Queuing Networks,
    JACM 27 (1980); it holds for any distribution of the pauses.
    """
    waiting = 0.0
    for number in range(1, loaders + 1):
        took = SECONDS * (1 + waiting)
        rate = number / (took + think)
        waiting = rate * took
    return rate, took


@pytest.mark.parametrize(("loaders", "think"), [(1, 4e-3), (4, 4e-3), (12, 8e-3), (3, 0.0)])
def test_a_closed_loop_is_that_of_mean_value_analysis(loaders: int, think: float) -> None:
    chance = random.Random(1)
    spread = [chance.expovariate(1.0) for _ in range(50_000)]
    mean = fmean(spread)
    exponential = costs(tuple(time / mean for time in spread))
    outcome = simulate(exponential, Fleet(loaders, think), seconds=50.0)
    rate, took = by_mean_value_analysis(loaders, think)
    assert len(outcome.answers) / 50.0 == pytest.approx(rate, rel=0.03)
    assert mean_seconds(outcome) == pytest.approx(took, rel=0.05)


@pytest.mark.parametrize("used", [0.5, 0.8])
@pytest.mark.parametrize("stages", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_many_loaders_are_a_queue_of_chance_arrivals(used: float, stages: int) -> None:
    # So many that one more under way is no fewer to come: arrivals by chance, M/D/1.
    loaders, think = 1000, 1000 * SECONDS / used
    outcome = simulate(costs(stages=stages), Fleet(loaders, think), seconds=30.0)
    # One after the other: Pollaczek and Khinchine.
    expected = SECONDS * (1 + used / (2 * (1 - used)))
    if stages > 1:  # by small turns: processor sharing, the same for any distribution
        expected = SECONDS / (1 - used)
    assert mean_seconds(outcome) == pytest.approx(expected, rel=0.1)


def test_a_narrow_wire_carries_its_bytes_and_no_more() -> None:
    bits, size = 1e9, 1_000_000
    fleet = Fleet(8, 0.0, replicas=2, bits=bits)
    outcome = simulate(costs(answer_bytes=size), fleet, seconds=10.0)
    assert len(outcome.answers) / 10.0 == pytest.approx(2 * bits / 8 / size, rel=0.02)


def test_loaders_that_share_a_core_have_no_more_than_it_does() -> None:
    slow = replace(costs(), client=4 * SECONDS)
    outcome = simulate(slow, Fleet(8, 0.0, loaders_share_core=True), seconds=10.0)
    assert len(outcome.answers) / 10.0 == pytest.approx(1 / (4 * SECONDS), rel=0.02)


def test_a_pause_makes_a_call_dearer() -> None:
    rested = replace(costs(), pauses=(0.0, 10.0), rested=(SECONDS, 11 * SECONDS))
    outcome = simulate(rested, Fleet(1, 1.0), seconds=2000.0)
    # A second of rest, on a line from one to eleven thousandths over ten seconds.
    assert mean_seconds(outcome) == pytest.approx(2 * SECONDS, rel=0.02)


def test_the_full_replica_refuses_and_everybody_is_answered() -> None:
    fleet = Fleet(40, 2e-3, in_flight=8)
    outcome = simulate(costs(stages=4), fleet, seconds=10.0)
    assert outcome.refused > 0
    assert outcome.failed == 0
    assert outcome.requested - len(outcome.answers) <= fleet.loaders
    # It is never idle: what it does not answer is refused.
    work = len(outcome.answers) * SECONDS + outcome.refused * REFUSAL_SECONDS
    assert work == pytest.approx(10.0, rel=0.02)


def test_one_seed_has_one_outcome() -> None:
    spread = tuple(random.Random(2).uniform(0.5, 1.5) for _ in range(1000))
    fleet = Fleet(10, 3e-3, replicas=2)
    first, second, other = (
        simulate(costs(spread, stages=4), fleet, 4.0, seed=seed) for seed in (7, 7, 8)
    )
    assert first == second
    assert first.answers != other.answers


def test_a_fleet_that_stands_still_is_not_enough() -> None:
    """All loaders call at once: nobody who called later has an answer while it is watched."""
    figures = at_work(costs(), Fleet(5000, 0.0))
    assert not figures.is_enough
    assert at_work(costs(), Fleet(10, 0.1)).is_enough
