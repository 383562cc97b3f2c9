"""What a refusal costs the server beside the smallest answer: CPU time of its threads, a call.

A server that takes one request at a time computes a long one, while callers request the smallest
masks and are refused. The thread that computes is left out of the account.
"""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

import grpc

from benchmarks.common.callers import REFUSED, closed_loop
from benchmarks.common.helper import Steps, helper
from benchmarks.common.measure import judged, median_ratio
from benchmarks.common.processes import thread_seconds, tree
from benchmarks.common.server import server_on, server_seconds
from benchmarks.common.workload import CHANNEL_OPTIONS, GENERATE_MASK, covered_request
from tests.support.servers import ServerProcess

BOUND = 0.25
TITLE = "What a refusal costs the server"
SMALLEST = covered_request(1, 1, 736, (23, 40))
_CALLERS = 8
_FIND_SECONDS, _MOST_SECONDS = 0.2, 1.5


def hold(address: str) -> Steps:
    """Keep a long request under way."""
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(GENERATE_MASK)
        call(SMALLEST, wait_for_ready=True)
        future: Any = call.future(covered_request(4096, 64, 64, (64, 64)))  # two seconds of a core
        yield None
        yield future.code() if future.done() else None


def measure(core: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of the two, and of their ratio in a round."""
    seconds = min(seconds, _MOST_SECONDS)
    answers, refusals = [], []
    for _ in range(rounds):
        with server_on(core) as server:
            answers.append(_answer_seconds(server, seconds))
        with server_on(core, "--max-in-flight", "1") as server:
            refusals.append(_refusal_seconds(server, seconds, answers[-1]))
    return {
        "refusal_cpu_microseconds": median(refusals) * 1e6,
        "smallest_answer_cpu_microseconds": median(answers) * 1e6,
        **judged(median_ratio(refusals, answers), most=BOUND),
    }


def _answer_seconds(server: ServerProcess, seconds: float) -> float:
    """CPU time of the server for the smallest answer, with its default settings."""
    with helper(closed_loop, server.address, SMALLEST, _CALLERS, seconds) as callers:
        before = server_seconds(server)
        callers.go()
        answered: int = callers.result().codes["OK"]
        return (server_seconds(server) - before) / answered


def _refusal_seconds(server: ServerProcess, seconds: float, answer: float) -> float:
    """The same for a refusal; answers before the long request are taken off."""
    arguments = (server.address, SMALLEST, _CALLERS, seconds, False)
    with helper(closed_loop, *arguments) as callers, helper(hold, server.address):
        before = thread_seconds(tree(server.process.pid))
        time.sleep(_FIND_SECONDS)
        after = thread_seconds(tree(server.process.pid))
        computing = max(after, key=lambda thread: after[thread] - before.get(thread, 0.0))
        callers.go()
        codes: Counter[str] = callers.result().codes
        now = thread_seconds(tree(server.process.pid))
    used = sum(now[thread] - after.get(thread, 0.0) for thread in now if thread != computing)
    if not codes[REFUSED]:
        raise SystemExit(f"a server that takes one request refused none: {dict(codes)}")
    return (used - codes["OK"] * answer) / codes[REFUSED]
