"""Callers of `GenerateMask`: a number that wait for their answers, or as many as arrive by chance.

They send a serialized request and leave the answer as bytes, so that their core is not what limits
them.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from benchmarks.common.helper import Steps
from benchmarks.common.workload import CHANNEL_OPTIONS, GENERATE_MASK
from cass_client.calls.retry import Attempts
from cass_client.errors import from_rpc_error
from cass_core.errors import CassError

_DEADLINE_SECONDS = 10.0
_FLOOD_CONNECTIONS = 4
REFUSED = "RESOURCE_EXHAUSTED"
_RETRIED = (REFUSED, "CANCELLED", "UNAVAILABLE")


@dataclass(slots=True)
class Tally:
    """What became of the calls; all times in seconds."""

    seconds: float = 0.0
    """How long calls were made."""
    answered: list[float] = field(default_factory=list)
    """Of each call that had an answer, until it."""
    waited: list[float] = field(default_factory=list)
    """The same from a caller's first try, refusals and waits included."""
    late: list[float] = field(default_factory=list)
    """How much later than planned each call of a flood started."""
    in_time: int = 0
    """Answers that came while calls were made."""
    codes: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A closed loop: answers per second, seconds of each call, and CPU seconds per call."""

    rate: float
    latencies: tuple[float, ...]
    server: float
    client: float

    @property
    def p99(self) -> float:
        """Seconds of the slowest hundredth of calls."""
        return float(np.percentile(self.latencies, 99))


def take_turn(
    address: str,
    request: bytes,
    callers: int,
    seconds: float,
    server_seconds: Callable[[], float],
    think: float = 0.0,
) -> Turn:
    """Run a closed loop in this process, and read the server's CPU time before and after."""
    steps = closed_loop(address, request, callers, seconds, think=think)
    next(steps)
    before = server_seconds()
    tally: Tally = next(steps)
    used, calls = server_seconds() - before, len(tally.answered)
    return Turn(calls / tally.seconds, tuple(tally.answered), used / calls, tally.cpu / calls)


def closed_loop(
    address: str,
    request: bytes,
    callers: int,
    seconds: float,
    waits: bool = True,
    think: float = 0.0,
) -> Steps:
    """Each caller, on a connection of its own, calls again after its answer.

    Before that it thinks for a uniform time, from half to one and a half of ``think`` seconds. A
    refused one waits as `CassClient` does, or without ``waits`` calls again at once.
    """
    calls = _connected(address, request, callers)
    yield None
    tally, uniform = Tally(), random.Random(0).uniform
    cpu, start = time.process_time(), time.perf_counter()
    end = start + seconds

    def caller(call: Any) -> None:
        time.sleep(uniform(0.0, think))
        while (first := time.perf_counter()) < end:
            attempts = Attempts(_DEADLINE_SECONDS)
            while True:
                began = time.perf_counter()
                error = _error_of(call, request)
                code = error.code().name if error else "OK"
                tally.codes[code] += 1
                if error is None:
                    tally.answered.append(time.perf_counter() - began)
                    tally.waited.append(time.perf_counter() - first)
                if code not in _RETRIED or time.perf_counter() >= end:
                    break
                if waits:
                    time.sleep(min(_delay(attempts, error), max(0.0, end - time.perf_counter())))
            pause = think * uniform(0.5, 1.5)
            time.sleep(max(0.0, min(pause, end - time.perf_counter())))

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(caller, calls))
    tally.seconds, tally.cpu = time.perf_counter() - start, time.process_time() - cpu
    tally.in_time = len(tally.answered)
    yield tally


def open_loop(address: str, request: bytes, rate: float, seconds: float) -> Steps:
    """Calls arrive at random at that rate, and none is repeated."""
    calls = _connected(address, request, _FLOOD_CONNECTIONS)
    yield None
    tally, lock, chance = Tally(), threading.Lock(), random.Random(0)
    under_way = threading.Semaphore(0)

    def done(future: Any, due: float) -> None:
        code = future.code().name
        with lock:
            tally.codes[code] += 1
            if code == "OK":
                tally.answered.append(time.perf_counter() - due)
        under_way.release()

    cpu, start = time.process_time(), time.perf_counter()
    due = start
    for call in itertools.cycle(calls):
        due += chance.expovariate(rate)
        if due >= start + seconds:
            break
        while (early := due - time.perf_counter()) > 0:
            time.sleep(min(early, 1e-3))
        tally.late.append(-early)
        future = call.future(request, timeout=_DEADLINE_SECONDS)
        future.add_done_callback(lambda future, due=due: done(future, due))
    tally.seconds, tally.in_time = time.perf_counter() - start, tally.codes["OK"]
    tally.cpu = time.process_time() - cpu
    for _ in tally.late:
        under_way.acquire()
    yield tally


def _connected(address: str, request: bytes, connections: int) -> list[Any]:
    """The method on each of several connections, all of which have had an answer."""
    channels = [grpc.insecure_channel(address, CHANNEL_OPTIONS) for _ in range(connections)]
    calls: list[Any] = [channel.unary_unary(GENERATE_MASK) for channel in channels]
    for call in calls:
        attempts = Attempts(_DEADLINE_SECONDS)
        while (error := _error_of(call, request)) is not None:  # the load before may still weigh
            time.sleep(_delay(attempts, error))
    return calls


def _error_of(call: Any, request: bytes) -> Any:
    try:
        call(request, timeout=_DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return error
    return None


def _delay(attempts: Attempts, error: Any) -> float:
    """Seconds that `CassClient` waits before it tries again.

    Raises:
        CassError: it does not try again.
    """
    failure: CassError = from_rpc_error(error, "server")
    failure.__cause__ = error
    return attempts.delay_after(failure)
