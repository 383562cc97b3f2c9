"""A simulated fleet: loaders that ask for a batch's masks, replicas, their cores and their wires.

Every loader works for a while, asks for the masks of one batch, waits for them, and begins again.
What a call costs is measured (`benchmarks.fleet.costs`); how calls meet is simulated here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from benchmarks.fleet.costs import Service

Steps = Generator[simpy.Event, Any, None]

# What `cass_server.scheduling.admission` tells callers that there is no room for, and the time of a
# refusal (`make bench-overload`).
_LEAST_DELAY, _LONGEST_DELAY, _PLACES_A_RETURN, _SMOOTHING = 0.01, 2.0, 6, 0.05
REFUSAL_SECONDS = 0.23e-3
# What `cass_client.calls.retry` and `cass_client.transport.channel_options` do: the first try's
# share of the time, the jitter of a wait that was told, and gRPC's wait before it repeats a broken
# call.
_FIRST_SHARE, _JITTER = 0.5, 0.25
_BACKOFF_SECONDS, _BACKOFF_JITTER = 0.2, 0.2
# A replica that is back is found by its clients within so many seconds.
_RECONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who asks whom.

    Attributes:
        loaders: how many; each has one call under way at most.
        think: mean seconds between an answer and the next call, uniform from half to one and a
            half of it; 0 for none.
        tick: seconds between the ticks of the loaders' clock, at which pauses end, as those of an
            event loop do; 0 for one without.
        replicas: server processes.
        hosts: machines that the loaders are spread over.
        host_shares_core: whether the calls of a host's loaders have one core; else each loader has
            its own, which its other work keeps awake.
        server_bits: a second, of each replica's wire.
        host_bits: a second, of each host's.
        in_flight: requests that a replica takes at a time; more are refused.
        timeout: seconds that a call may take.
        lost_at: second at which the first of several replicas is lost; never by default.
        back_after: seconds after which it is back.
        silent: it goes without a word, as a machine without power does; else its connections break.
    """

    loaders: int
    think: float
    tick: float = 0.0
    replicas: int = 1
    hosts: int = 1
    host_shares_core: bool = False
    server_bits: float = 25e9
    host_bits: float = 25e9
    in_flight: int = 64
    timeout: float = 10.0
    lost_at: float | None = None
    back_after: float = 30.0
    silent: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of all calls.

    Attributes:
        asked: calls begun; some are under way at the end.
        answers: second at which each answered call began, and seconds that it took.
        failed: calls that had no answer in time.
        refused: tries that a replica had no room for.
        repeated: tries that a lost replica did not answer.
        core_seconds: that the replicas' cores worked.
        wire_seconds: that the replicas' wires carried answers.
    """

    asked: int = 0
    answers: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0
    refused: int = 0
    repeated: int = 0
    core_seconds: float = 0.0
    wire_seconds: float = 0.0


def simulate(service: Service, fleet: Fleet, seconds: float, seed: int = 0) -> Outcome:
    """Run a fleet for some seconds from a start in which all loaders are at their other work.

    Args:
        service: what calls cost.
        fleet: who makes them.
        seconds: of simulated time.
        seed: the same one gives the same outcome.

    Raises:
        ValueError: the only replica is to be lost.
    """
    if fleet.lost_at is not None and fleet.replicas < 2:
        raise ValueError("lost_at: there must be a second replica")
    simulation = _Simulation(service, fleet, seed)
    simulation.env.run(until=seconds)
    outcome = simulation.outcome
    outcome.core_seconds = sum(core.busy for core in simulation.cores)
    outcome.wire_seconds = sum(replica.wire.busy for replica in simulation.replicas)
    return outcome


class _Core:
    """Works for several callers by turns, first come, first served.

    Args:
        env: of the simulation.
        spread: its times by their mean.
        place: where in them it begins.
    """

    def __init__(self, env: simpy.Environment, spread: Sequence[float], place: int = 0) -> None:
        self.busy = 0.0
        self._env, self._spread, self._place = env, spread, float(place)
        self._turns = simpy.Resource(env)
        self._free_at = 0.0

    def work(
        self,
        cost: Callable[[float], float],
        stages: int = 1,
        overlap: float = 0.0,
    ) -> Steps:
        """Return when the caller has what it came for.

        Args:
            cost: seconds of work, by those of rest before.
            stages: that the work is done in, each in a turn of its own.
            overlap: share of the work that the caller does not wait for.
        """
        env, seconds = self._env, 0.0
        for stage in range(stages):
            with self._turns.request() as turn:
                yield turn
                left = max(self._free_at - env.now, 0.0)
                if stage == 0:
                    seconds = cost(max(env.now - self._free_at, 0.0)) / stages
                self._place = (self._place + 1 / stages) % len(self._spread)
                took = seconds * self._spread[int(self._place)]
                self.busy += took
                after = min(took, seconds * stages * overlap) if stage == stages - 1 else 0.0
                try:
                    yield env.timeout(left + took - after)
                finally:
                    self._free_at = env.now + after


class _Wire:
    """One direction of a machine's link: one message after the other."""

    def __init__(self, bits: float) -> None:
        self.busy = 0.0
        self._bytes_a_second = bits / 8
        self._free_at = 0.0

    def carry(self, size: int, start: float, end: float = 0.0) -> tuple[float, float]:
        """When a message that comes from ``start`` to ``end`` begins to be carried, and is."""
        took = size / self._bytes_a_second
        start = max(start, self._free_at)
        self._free_at = max(end, start + took)
        self.busy += took
        return start, self._free_at


class _Replica:
    """A server process."""

    def __init__(self, core: _Core, bits: float) -> None:
        self.core, self.wire = core, _Wire(bits)
        self.callers: dict[simpy.Process, None] = {}  # in the order that they came
        self.is_lost = False
        self._seconds = self._booked = 0.0

    def delay(self, now: float) -> float:
        """Seconds that a refused caller is told to wait: each comes back at another moment."""
        between = _PLACES_A_RETURN * self._seconds / max(1, len(self.callers))
        self._booked = min(max(self._booked, now) + between, now + _LONGEST_DELAY)
        return max(self._booked - now, _LEAST_DELAY)

    def answered(self, took: float) -> None:
        """Count the seconds of a request."""
        self._seconds += _SMOOTHING * (took - self._seconds)


class _Host:
    """A machine with loaders."""

    def __init__(self, env: simpy.Environment, fleet: Fleet, spread: Sequence[float]) -> None:
        self.core = _Core(env, spread) if fleet.host_shares_core else None
        self.sends, self.receives = _Wire(fleet.host_bits), _Wire(fleet.host_bits)


class _Simulation:
    def __init__(self, service: Service, fleet: Fleet, seed: int) -> None:
        self.env = env = simpy.Environment()
        self.outcome = Outcome()
        self._service, self._fleet, self._chance = service, fleet, random.Random(seed)
        self.cores = [
            _Core(env, service.spread, self._chance.randrange(len(service.spread)))
            for _ in range(fleet.replicas)
        ]
        self.replicas = [_Replica(core, fleet.server_bits) for core in self.cores]
        self._hosts = [_Host(env, fleet, service.spread) for _ in range(fleet.hosts)]
        # Whether each loader's client takes the first replica for reachable.
        self._trusting = [True] * fleet.loaders
        for index in range(fleet.loaders):
            env.process(self._loader(index))
        if fleet.lost_at is not None:
            env.process(self._loss(fleet.lost_at))

    def _loss(self, at: float) -> Steps:
        first, loaders = self.replicas[0], range(self._fleet.loaders)
        yield self.env.timeout(at)
        first.is_lost = True
        if not self._fleet.silent:
            self._trusting = [False for _ in loaders]
        for caller in tuple(first.callers):
            caller.interrupt()
        yield self.env.timeout(self._fleet.back_after)
        first.is_lost = False
        for index in loaders:
            self.env.process(self._find(index))

    def _find(self, index: int) -> Steps:
        yield self.env.timeout(self._chance.uniform(0.0, _RECONNECT_SECONDS))
        self._trusting[index] = True

    def _loader(self, index: int) -> Steps:
        env, think, chance = self.env, self._fleet.think, self._chance
        host = self._hosts[index % len(self._hosts)]
        # Connections come about in any order.
        turns = [*range(self._fleet.replicas)]
        chance.shuffle(turns)
        yield env.timeout(self._until_tick(chance.uniform(0.0, think)))
        while True:
            started = env.now
            self.outcome.asked += 1
            if (yield from self._call(index, host, turns)):
                self.outcome.answers.append((started, env.now - started))
            else:
                self.outcome.failed += 1
            yield env.timeout(self._until_tick(think * chance.uniform(0.5, 1.5)))

    def _until_tick(self, pause: float) -> float:
        """Seconds until the tick of the loaders' clock that is nearest to the end of a pause."""
        tick, now = self._fleet.tick, self.env.now
        if not tick or not pause:
            return pause
        return max(round((now + pause) / tick) * tick - now, 0.0)

    def _call(self, index: int, host: _Host, turns: list[int]) -> Generator[simpy.Event, Any, bool]:
        """Whether there was an answer in time."""
        env, timeout = self.env, self._fleet.timeout
        cut, end = env.now + _FIRST_SHARE * timeout, env.now + timeout
        taking = self._service.client(0.0) / 2
        yield from self._at_host(host, lambda rest: self._service.client(rest) - taking)
        while True:
            number = turns.pop(0)
            turns.append(number)
            if number == 0 and not self._trusting[index]:
                continue
            delay = yield from self._try(self.replicas[number], index, host, cut)
            if delay is None:
                yield from self._at_host(host, lambda _: taking)
                return True
            if env.now + delay >= end:
                return False
            yield env.timeout(delay)

    def _at_host(self, host: _Host, cost: Callable[[float], float]) -> Steps:
        """The loader's part of a call: to send it, which a pause makes dearer, or to take it."""
        if host.core is None:
            yield self.env.timeout(cost(0.0))
        else:
            yield from host.core.work(cost)

    def _try(
        self, replica: _Replica, index: int, host: _Host, cut: float
    ) -> Generator[simpy.Event, Any, float | None]:
        """None for an answer, else the seconds to wait before the next try."""
        env, service = self.env, self._service
        _, arrives = host.sends.carry(service.request_bytes, env.now)
        yield env.timeout(arrives - env.now)
        if replica.is_lost:
            return (yield from self._lost(index, cut))
        if len(replica.callers) >= self._fleet.in_flight:
            self.outcome.refused += 1
            delay = replica.delay(env.now) * (1 + _JITTER * self._chance.random())
            yield from replica.core.work(lambda _: REFUSAL_SECONDS)
            return delay
        caller, entered = env.active_process, env.now
        assert caller is not None
        replica.callers[caller] = None
        try:
            cost = partial(self._seconds, replica)
            yield from replica.core.work(cost, service.stages, service.overlap)
            begins, sent = replica.wire.carry(service.answer_bytes, env.now)
            _, arrives = host.receives.carry(service.answer_bytes, begins, sent)
            yield env.timeout(arrives - env.now)
        except simpy.Interrupt:
            return (yield from self._lost(index, cut))
        finally:
            del replica.callers[caller]
        replica.answered(env.now - entered)
        return None

    def _seconds(self, replica: _Replica, rest: float) -> float:
        if rest:
            return self._service.rested(rest)
        return self._service.crowded(len(replica.callers))

    def _lost(self, index: int, cut: float) -> Generator[simpy.Event, Any, float]:
        self.outcome.repeated += 1
        if self._fleet.silent:
            # Nobody tells the client, which leaves the connection when the first try is cut.
            yield self.env.timeout(max(cut - self.env.now, 0.0))
            self._trusting[index] = False
            return 0.0
        return _BACKOFF_SECONDS * self._chance.uniform(1 - _BACKOFF_JITTER, 1 + _BACKOFF_JITTER)
