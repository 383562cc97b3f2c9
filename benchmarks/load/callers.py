"""Callers of `GenerateMask`: a number that wait for their answers, or as many as arrive by chance.

They send a request made before and leave the answer as bytes, so that their core is not what limits
them.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks.common.workload import CHANNEL_OPTIONS, GENERATE_MASK
from benchmarks.load.helper import Steps

_DEADLINE_SECONDS = 10.0
_FLOOD_CONNECTIONS = 4
# After a refusal without advice: twice as long each time.
_FIRST_DELAY, _LONGEST_DELAY, _JITTER = 0.01, 1.0, 0.25
REFUSED = "RESOURCE_EXHAUSTED"
# What comes back of a call that can be tried again.
_AGAIN = (REFUSED, "CANCELLED", "UNAVAILABLE")


@dataclass(slots=True)
class Tally:
    """What became of the calls; all times in seconds.

    Attributes:
        answered: until its answer, of each call that had one.
        codes: how calls ended.
        waited: from a caller's first try to its answer, refusals and waits included.
        late: by which each call of a flood started later than it was to.
        seconds: how long calls were made.
        in_time: answers that came within that time.
        cpu: processor time of the callers.
    """

    answered: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    waited: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    seconds: float = 0.0
    in_time: int = 0
    cpu: float = 0.0


def closed_loop(
    address: str, request: bytes, callers: int, seconds: float, waits: bool = True
) -> Steps:
    """Each caller, on a connection of its own, calls again once it has its answer.

    Args:
        address: of the server.
        request: the serialized request.
        callers: how many.
        seconds: how long.
        waits: whether a refused one waits as told, or backs off; else it calls again at once.
    """
    calls = _connected(address, request, callers)
    yield None
    tally = Tally()
    cpu, start = time.process_time(), time.perf_counter()
    end = start + seconds

    def caller(call: Any) -> None:
        while (first := time.perf_counter()) < end:
            for refusals in itertools.count():
                began = time.perf_counter()
                error = _error_of(call, request)
                code = error.code().name if error else "OK"
                tally.codes[code] += 1
                if error is None:
                    tally.answered.append(time.perf_counter() - began)
                    tally.waited.append(time.perf_counter() - first)
                if code not in _AGAIN or time.perf_counter() >= end:
                    break
                if waits:
                    time.sleep(min(_delay(error, refusals), max(0.0, end - time.perf_counter())))

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(caller, calls))
    tally.seconds, tally.cpu = time.perf_counter() - start, time.process_time() - cpu
    tally.in_time = len(tally.answered)
    yield tally


def open_loop(address: str, request: bytes, rate: float, seconds: float) -> Steps:
    """Calls arrive at that rate whatever becomes of them, and none is made again."""
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
        refusals = 0
        while (error := _error_of(call, request)) is not None:  # the load before may still weigh
            if error.code().name not in _AGAIN:
                raise error
            time.sleep(_delay(error, refusals))
            refusals += 1
    return calls


def _error_of(call: Any, request: bytes) -> Any:
    try:
        call(request, timeout=_DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return error
    return None


def _delay(error: Any, refusals: int) -> float:
    """Seconds to wait after so many refusals before this one: as told, or twice the last time."""
    delay: float = min(_FIRST_DELAY * 2.0**refusals, _LONGEST_DELAY)
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            delay = max(float(info.retry_delay.ToNanoseconds() / 1e9), _FIRST_DELAY)
    return delay * (1 + _JITTER * random.random())
