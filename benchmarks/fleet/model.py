"""A simulated fleet of loaders that fetch masks from replicas, on SimPy.

A loader works for a while, requests the masks of one batch, waits for them, and starts again. What
a call costs is measured (`benchmarks.fleet.measure`); how calls meet is simulated here, with the
delays and shares of the client's and the server's own modules.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from cass_client.calls import retry
from cass_server.config.limits import Limits
from cass_server.scheduling import admission

Process = Generator[simpy.Event, Any, None]

REFUSAL_SECONDS = 0.23e-3
"""Seconds of a core for a refusal (`make bench-overload`)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a call for the masks of one batch costs.

    Attributes:
        pauses: seconds that a replica was idle before a call, rising.
        rested: seconds of its core for a call after each of them.
        busy: seconds of its core for a call that finds others under way.
        client: seconds of the loader's core.
        spread: times of single calls divided by their mean, in the order in which they were taken.
        answer_bytes: on the wire.
        stages: parts of a replica's work on a request; other requests take turns between them.
    """

    pauses: tuple[float, ...]
    rested: tuple[float, ...]
    busy: float
    client: float
    spread: Sequence[float]
    answer_bytes: int
    stages: int = 4

    def server(self, pause: float) -> float:
        """Seconds of a replica's core after a pause: between the measured ones on lines."""
        if not pause:
            return self.busy
        right = bisect_left(self.pauses, pause)
        if right in (0, len(self.pauses)):
            return self.rested[min(right, len(self.pauses) - 1)]
        low, high = self.pauses[right - 1], self.pauses[right]
        share = (pause - low) / (high - low)
        return self.rested[right - 1] * (1 - share) + self.rested[right] * share


@dataclass(frozen=True, slots=True)
class Fleet:
    """Loaders, replicas, and what connects them.

    Attributes:
        loaders: how many; each has at most one call under way.
        think: mean seconds between an answer and the next call, uniform from half to one and a
            half of it.
        replicas: server processes, each with a core.
        loaders_share_core: whether all loaders have one core; else each has its own.
        bits: a second, of each replica's wire.
        in_flight: requests that a replica takes at a time; more are refused.
        timeout: seconds that a call may take.
    """

    loaders: int
    think: float
    replicas: int = 1
    loaders_share_core: bool = False
    bits: float = 25e9
    in_flight: int = Limits().requests_in_flight
    timeout: float = 10.0


@dataclass(slots=True)
class Outcome:
    """What became of all calls, some of which are under way at the end."""

    requested: int = 0
    answers: list[tuple[float, float]] = field(default_factory=list)
    """Second at which each answered call began, and seconds that it took."""
    failed: int = 0
    """Calls without an answer in time."""
    refused: int = 0
    """Tries that a replica had no room for."""
    core_seconds: float = 0.0
    wire_seconds: float = 0.0


def simulate(costs: Costs, fleet: Fleet, seconds: float, seed: int = 0) -> Outcome:
    """Run a fleet for some simulated seconds, from a start at which all loaders think."""
    simulation = _Simulation(costs, fleet, seed)
    simulation.env.run(until=seconds)
    simulation.outcome.core_seconds = sum(replica.core.busy for replica in simulation.replicas)
    return simulation.outcome


class _Core:
    """Works for several callers in turns, first come, first served."""

    def __init__(self, env: simpy.Environment, spread: Sequence[float], offset: int = 0) -> None:
        self.busy = 0.0
        self._env, self._spread, self._offset = env, spread, float(offset)
        self._turns = simpy.Resource(env)
        self._free_at = 0.0

    def work(self, cost: Callable[[float], float], stages: int = 1) -> Process:
        """Return when the work is done, whose seconds are a function of the rest before it."""
        env, seconds = self._env, 0.0
        for stage in range(stages):
            with self._turns.request() as turn:
                yield turn
                if stage == 0:
                    seconds = cost(env.now - self._free_at) / stages
                self._offset = (self._offset + 1 / stages) % len(self._spread)
                took = seconds * self._spread[int(self._offset)]
                self.busy += took
                yield env.timeout(took)
                self._free_at = env.now


class _Replica:
    """A server process; its delays are those of `cass_server.scheduling.admission`."""

    def __init__(self, core: _Core) -> None:
        self.core = core
        self.calls = 0
        self.wire_free_at = self._seconds = self._booked = 0.0

    def retry_delay(self, now: float) -> float:
        """Seconds that a refused caller has to wait."""
        between = admission._SLOTS_A_RETURN * self._seconds / max(1, self.calls)
        booked = max(self._booked, now) + between
        self._booked = min(booked, now + admission._LONGEST_DELAY)
        return max(self._booked - now, admission._LEAST_DELAY)

    def answered(self, took: float) -> None:
        """Count the seconds of a request."""
        self._seconds += admission._SMOOTHING * (took - self._seconds)


class _Simulation:
    def __init__(self, costs: Costs, fleet: Fleet, seed: int) -> None:
        self.env = env = simpy.Environment()
        self.outcome = Outcome()
        self._costs, self._fleet, self._random = costs, fleet, random.Random(seed)
        offsets = [self._random.randrange(len(costs.spread)) for _ in range(fleet.replicas)]
        self.replicas = [_Replica(_Core(env, costs.spread, offset)) for offset in offsets]
        self._client_core = _Core(env, costs.spread)
        for _ in range(fleet.loaders):
            env.process(self._loader())

    def _loader(self) -> Process:
        env, think, uniform = self.env, self._fleet.think, self._random.uniform
        order = [*range(self._fleet.replicas)]
        self._random.shuffle(order)
        yield env.timeout(uniform(0.0, think))
        while True:
            started = env.now
            self.outcome.requested += 1
            if (yield from self._call(order)):
                self.outcome.answers.append((started, env.now - started))
            else:
                self.outcome.failed += 1
            yield env.timeout(think * uniform(0.5, 1.5))

    def _call(self, order: list[int]) -> Generator[simpy.Event, Any, bool]:
        """Whether there was an answer in time."""
        env, end = self.env, self.env.now + self._fleet.timeout
        yield from self._at_loader()
        while True:
            number = order.pop(0)
            order.append(number)
            delay = yield from self._try(self.replicas[number])
            if delay is None:
                yield from self._at_loader()
                return True
            if env.now + delay >= end:
                return False
            yield env.timeout(delay)

    def _at_loader(self) -> Process:
        """Half of the loader's work for a call: before it, or after it."""
        if self._fleet.loaders_share_core:
            yield from self._client_core.work(lambda _: self._costs.client / 2)
        else:
            yield self.env.timeout(self._costs.client / 2)

    def _try(self, replica: _Replica) -> Generator[simpy.Event, Any, float | None]:
        """None for an answer, else the seconds to wait before the next try."""
        env, costs, core = self.env, self._costs, replica.core
        if replica.calls >= self._fleet.in_flight:
            self.outcome.refused += 1
            delay = replica.retry_delay(env.now)
            yield from core.work(lambda _: REFUSAL_SECONDS)
            return delay * (1 + retry._JITTER * self._random.random())
        replica.calls += 1
        entered = env.now
        alone = replica.calls == 1
        yield from core.work(lambda rest: costs.server(rest if alone else 0.0), costs.stages)
        took = costs.answer_bytes * 8 / self._fleet.bits
        replica.wire_free_at = max(replica.wire_free_at, env.now) + took
        self.outcome.wire_seconds += took
        yield env.timeout(replica.wire_free_at - env.now)
        replica.calls -= 1
        replica.answered(env.now - entered)
        return None
