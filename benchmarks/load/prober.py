"""Health checks on a connection of their own, as Kubernetes makes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.common.helper import Steps

_PAUSE_SECONDS, _TIMEOUT_SECONDS = 0.02, 10.0
BOUND_MILLISECONDS = 50.0
"""Largest p99 that holds."""


@dataclass(slots=True)
class Probes:
    """Milliseconds of each health check, and those without SERVING, by status."""

    milliseconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


def probe(address: str, seconds: float) -> Steps:
    """A health check every 20 ms."""
    request, serving = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse.SERVING
    check: Any = health_pb2_grpc.HealthStub(grpc.insecure_channel(address)).Check
    check(request, timeout=_TIMEOUT_SECONDS, wait_for_ready=True)
    yield None
    probes, end = Probes(), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        try:
            status = check(request, timeout=_TIMEOUT_SECONDS).status
        except grpc.RpcError as error:
            probes.failed[error.code().name] += 1
        else:
            if status != serving:
                probes.failed[health_pb2.HealthCheckResponse.ServingStatus.Name(status)] += 1
        probes.milliseconds.append((time.perf_counter() - start) * 1e3)
        time.sleep(_PAUSE_SECONDS)
    yield probes


def summary(rounds: Sequence[Probes]) -> dict[str, Any]:
    """All rounds together."""
    taken = [milliseconds for probes in rounds for milliseconds in probes.milliseconds]
    failed = sum((probes.failed for probes in rounds), Counter[str]())
    p50, p99, worst = np.percentile(taken, (50, 99, 100)).tolist()
    return {
        "checks": len(taken),
        "p50_milliseconds": p50,
        "p99_milliseconds": p99,
        "worst_milliseconds": worst,
        "failed": dict(failed),
        "holds": p99 <= BOUND_MILLISECONDS and not failed,
    }
