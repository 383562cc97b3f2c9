"""One client for a while, in a process of its own: prints one line of JSON.

`python -m benchmarks.rpc.client RUN`, where RUN is a `Run` as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.rpc import clients
from benchmarks.rpc.clients import Client

_WARM_UP_CALLS, _CHECK_SECONDS = 20, 0.05
# An answer in uint8 may be rounded the other way.
_TOLERANCE = {"float32": 1e-6, "uint8": 1.0}


@dataclass(frozen=True, slots=True)
class Run:
    """What a client is to do.

    Attributes:
        client: `ours`, `bare` or `triton`.
        address: of the server.
        stride: of the masks, as `MAPS` has it.
        dtype: of the masks; the others know float32 alone.
        in_flight: threads that call, or requests of one stream.
        streamed: whether over a stream.
        seconds: how long.
        expected: file of the right masks, if they are to be compared. Not in a process that is
            measured: glibc's allocator learns from each large array.
    """

    client: str
    address: str
    stride: str
    dtype: str
    in_flight: int
    streamed: bool
    seconds: float
    expected: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        rate: answers a second.
        cpu_microseconds: of this process, a call.
        p50_milliseconds: of a unary call; 0 for streams.
        calls: all that the server has answered, with those before the measurement.
    """

    rate: float
    cpu_microseconds: float
    p50_milliseconds: float
    calls: int


def client_of(run: Run) -> Client:
    """The client of a run."""
    if run.client == "ours":
        return clients.ours(run.address, run.stride, run.dtype)
    if run.client == "triton":
        return clients.triton(run.address, run.stride)
    return clients.bare(run.address, run.stride)


def drive(client: Client, run: Run) -> Outcome:
    """Keep requests in flight."""
    if run.expected:
        check(client, run)
    for _ in range(_WARM_UP_CALLS):
        client.one()
    cpu, start = time.process_time(), time.perf_counter()
    if run.streamed:
        waits, calls = [0.0], sum(1 for _ in client.stream(run.in_flight, start + run.seconds))
    else:
        waits = _unary(client, run.in_flight, start + run.seconds)
        calls = len(waits)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    p50 = float(np.median(waits)) * 1e3
    return Outcome(calls / wall, cpu / calls * 1e6, p50, calls + _WARM_UP_CALLS)


def check(client: Client, run: Run) -> None:
    """Compare the masks of a call and of a stream.

    Raises:
        SystemExit: they are wrong.
    """
    expected = np.load(run.expected).astype(np.float64)
    streamed = client.stream(run.in_flight, time.perf_counter() + _CHECK_SECONDS)
    for masks in (client.one(), *streamed):
        if not np.allclose(masks, expected, rtol=0, atol=_TOLERANCE[run.dtype]):
            raise SystemExit(f"wrong masks: {run}")


def _unary(client: Client, callers: int, end: float) -> list[float]:
    """Seconds of each call."""

    def call(_: int) -> list[float]:
        waits = []
        while (start := time.perf_counter()) < end:
            client.one()
            waits.append(time.perf_counter() - start)
        return waits

    with ThreadPoolExecutor(callers) as threads:
        return [wait for waits in threads.map(call, range(callers)) for wait in waits]


def main() -> None:
    """Do what the argument says."""
    run = Run(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(drive(client_of(run), run))))


if __name__ == "__main__":
    main()
