"""Health checks on a connection of their own, as Kubernetes makes them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.common.helper import Steps

_PAUSE_SECONDS, _TIMEOUT_SECONDS = 0.02, 10.0
BOUND_MILLISECONDS = 50.0


@dataclass(slots=True)
class Probes:
    """What health checks met.

    Attributes:
        milliseconds: of each.
        failed: those without SERVING, by status.
    """

    milliseconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Probes) -> None:
        """Count those of another round as well."""
        self.milliseconds += other.milliseconds
        self.failed += other.failed

    def summary(self) -> dict[str, Any]:
        """For a result."""
        p50, p99, worst = np.percentile(self.milliseconds, (50, 99, 100)).tolist()
        return {
            "checks": len(self.milliseconds),
            "p50_milliseconds": p50,
            "p99_milliseconds": p99,
            "worst_milliseconds": worst,
            "failed": dict(self.failed),
            "holds": p99 <= BOUND_MILLISECONDS and not self.failed,
        }


def probe(address: str, seconds: float) -> Steps:
    """A health check every 20 ms for so long."""
    request, serving = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse.SERVING
    check: Any = health_pb2_grpc.HealthStub(grpc.insecure_channel(address)).Check
    check(request, timeout=_TIMEOUT_SECONDS, wait_for_ready=True)
    yield None
    probes = Probes()
    end = time.perf_counter() + seconds
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


def probe_cells(probes: dict[str, Any]) -> tuple[str, ...]:
    """For a table: median, p99 with its bound, worst, failed."""
    colour = "green" if probes["p99_milliseconds"] <= BOUND_MILLISECONDS else "red"
    failed = " ".join(f"{code} {count}" for code, count in probes["failed"].items())
    return (
        f"{probes['p50_milliseconds']:.1f}",
        f"[{colour}]{probes['p99_milliseconds']:.1f}[/]",
        f"{probes['worst_milliseconds']:.1f}",
        f"[red]{failed}[/]" if failed else "0",
    )


PROBE_COLUMNS = ("probe p50", f"p99 (≤ {BOUND_MILLISECONDS:.0f})", "worst", "failed")
