"""One client for a while, in a process of its own: prints what `drive` returns as JSON.

`python -m benchmarks.rpc.client STACK ADDRESS CASE SECONDS [EXPECTED]`, where STACK is one of
`STACKS`, CASE a `Case` as JSON, and EXPECTED a file of the right masks, in a process that is not
measured: glibc's allocator adapts to each large array.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.common.workload import Case
from benchmarks.rpc.stacks import STACKS, Client

_WARM_UP_CALLS, _CHECK_SECONDS = 20, 0.05
# An answer in uint8 may be rounded the other way.
_TOLERANCE = {"float32": 1e-6, "uint8": 1.0}


def drive(client: Client, case: Case, seconds: float) -> dict[str, float]:
    """Keep requests in flight.

    Returns:
        ``rate`` in answers per second, ``client`` CPU µs per call, ``p50`` milliseconds of a unary
        call (0 for streams), and ``calls`` that the server has answered, uncounted ones included.
    """
    for _ in range(_WARM_UP_CALLS):
        client.unary()
    cpu, start = time.process_time(), time.perf_counter()
    if case.streamed:
        waits, calls = [0.0], sum(1 for _ in client.stream(case.in_flight, start + seconds))
    else:
        waits = _unary(client, case.in_flight, start + seconds)
        calls = len(waits)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "rate": calls / wall,
        "client": cpu / calls * 1e6,
        "p50": float(np.median(waits)) * 1e3,
        "calls": calls + _WARM_UP_CALLS,
    }


def check(client: Client, case: Case, expected: str) -> None:
    """Compare the masks of a call and of a stream."""
    right = np.load(expected).astype(np.float64)
    streamed = client.stream(case.in_flight, time.perf_counter() + _CHECK_SECONDS)
    for masks in (client.unary(), *streamed):
        if not np.allclose(masks, right, rtol=0, atol=_TOLERANCE[case.dtype]):
            raise SystemExit(f"wrong masks: {case}")


def _unary(client: Client, callers: int, end: float) -> list[float]:
    """Seconds of each call."""

    def call(_: int) -> list[float]:
        waits = []
        while (start := time.perf_counter()) < end:
            client.unary()
            waits.append(time.perf_counter() - start)
        return waits

    with ThreadPoolExecutor(callers) as threads:
        return [wait for waits in threads.map(call, range(callers)) for wait in waits]


if __name__ == "__main__":
    stack, address, text, seconds, *expected = sys.argv[1:]
    case = Case(**json.loads(text))
    client = STACKS[stack](address, case.stride, case.dtype)
    if expected:
        check(client, case, expected[0])
    print(json.dumps(drive(client, case, float(seconds))))
