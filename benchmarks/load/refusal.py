"""What a refusal costs the server beside the smallest answer: CPU time of its threads, a call.

A server that takes one request at a time computes a long one, while callers ask for the smallest
masks and are refused. The thread that computes is left out of the account.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from benchmarks.common.callers import REFUSED, closed_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.watched_server import WatchedServer, watched_server
from benchmarks.common.workload import CHANNEL_OPTIONS, GENERATE_MASK, covered_request

BOUND = 0.25
_CALLERS = 8
_FIND_SECONDS, _MOST_SECONDS = 0.2, 1.5


SMALLEST = covered_request(1, 1, 736, (23, 40))


def hold(address: str) -> Steps:
    """Keep the long request under way."""
    long = covered_request(4096, 64, 64, (64, 64))  # some two seconds of a core
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(GENERATE_MASK)
        call(SMALLEST, wait_for_ready=True)
        future: Any = call.future(long)
        yield None
        yield future.code() if future.done() else None


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of the two, and of their ratio in a round."""
    seconds = min(seconds, _MOST_SECONDS)
    answers, refusals, ratios = [], [], []
    for _ in range(rounds):
        with watched_server("--device", "cpu", core=core) as server:
            answers.append(_answer_seconds(server, seconds))
        with watched_server("--device", "cpu", "--max-in-flight", "1", core=core) as server:
            refusals.append(_refusal_seconds(server, seconds, answers[-1]))
        ratios.append(refusals[-1] / answers[-1])
    ratio = median(ratios)
    return {
        "smallest_answer_cpu_microseconds": median(answers) * 1e6,
        "refusal_cpu_microseconds": median(refusals) * 1e6,
        "ratio": ratio,
        "bound": BOUND,
        "holds": ratio <= BOUND,
    }


def line(result: Mapping[str, Any]) -> str:
    """For the screen."""
    mark = "[green]✓[/]" if result["holds"] else "[red]✗[/]"
    return (
        f"CPU of the server: a refusal {result['refusal_cpu_microseconds']:.0f} µs, the smallest"
        f" answer {result['smallest_answer_cpu_microseconds']:.0f} µs,"
        f" ratio {result['ratio']:.2f} ≤ {BOUND} {mark}"
    )


def _answer_seconds(server: WatchedServer, seconds: float) -> float:
    """CPU time of the server for the smallest answer, with its default settings."""
    with helper(closed_loop, server.address, SMALLEST, _CALLERS, seconds) as callers:
        before = _thread_seconds(server)
        callers.go()
        codes: Counter[str] = callers.result().codes
        return _used(server, before) / codes["OK"]


def _refusal_seconds(server: WatchedServer, seconds: float, answer: float) -> float:
    """The same for a refusal; what was answered before the long request is taken off.

    Raises:
        SystemExit: the server refused nothing.
    """
    arguments = (server.address, SMALLEST, _CALLERS, seconds, False)
    with helper(closed_loop, *arguments) as callers, helper(hold, server.address):
        before = _thread_seconds(server)
        time.sleep(_FIND_SECONDS)
        after = _thread_seconds(server)
        computing = max(after, key=lambda thread: after[thread] - before.get(thread, 0.0))
        callers.go()
        codes: Counter[str] = callers.result().codes
        used = _used(server, after, but=computing)
    if not codes[REFUSED]:
        raise SystemExit(f"a server that takes one request refused none: {dict(codes)}")
    return (used - codes["OK"] * answer) / codes[REFUSED]


def _thread_seconds(server: WatchedServer) -> dict[str, float]:
    """CPU time of each thread until now, to the nanosecond where `/proc/PID/stat` has ticks."""
    return {
        task.name: int((task / "schedstat").read_text().split()[0]) / 1e9
        for pid in server.pids()
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def _used(server: WatchedServer, before: dict[str, float], but: str = "") -> float:
    return sum(
        seconds - before.get(thread, 0.0)
        for thread, seconds in _thread_seconds(server).items()
        if thread != but
    )
