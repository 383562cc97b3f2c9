"""What an operator sees of a server: its metrics, and complaints in its log."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cass_server.observability.metrics import Metrics
from cass_server.observability.prometheus import WorkerMetrics
from tests.server.support.processes import LIMIT, wait_until
from tests.support.servers import ServerProcess

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and labels, which are sorted."""


def scrape(server: ServerProcess) -> Samples:
    """All samples now of a server that serves with ``--metrics-port 0``."""
    address = server.records("metrics")[0]["address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT) as answer:
        return samples(answer.read().decode())


def exposed(metrics: Sequence[Metrics], workers: tuple[int, int] = (1, 0)) -> Samples:
    """All samples of metrics that nobody serves; ``workers`` run and were started again."""
    found = WorkerMetrics(metrics, "1.2.3", "cuda:0", lambda: workers)
    return samples(generate_latest(found).decode())


def samples(exposition: str) -> Samples:
    """What Prometheus reads."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What is exposed and is not 0, by name and the values of the labels, but for times."""
    return {
        (name, *(value for _, value in labels)): value
        for (name, labels), value in exposed([metrics]).items()
        if value and "_seconds" not in name and name not in {"cass_build_info", "cass_workers"}
    }


class Counted:
    """A server in the test's process, by its ``metrics``."""

    metrics: Metrics

    def counted(self) -> dict[tuple[str, ...], float]:
        """Metrics that are not 0, by name and the values of the labels, without times."""
        return counted(self.metrics)

    def ended(self) -> dict[tuple[str, str], float]:
        """Requests by method and code."""
        name = "cass_requests_total"
        return {(key[2], key[1]): n for key, n in self.counted().items() if key[0] == name}

    def wait_in_flight(self, number: int) -> None:
        """Return once so many requests are taken and not yet answered."""
        wait_until(lambda: self.counted().get(("cass_requests_in_flight",), 0) == number)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample's value."""
    return samples[name, tuple(sorted(labels.items()))]


def counters(samples: Samples) -> Samples:
    """Those that never fall while a server runs."""
    ends = ("_total", "_bucket", "_count", "_sum")
    return {key: number for key, number in samples.items() if key[0].endswith(ends)}


def in_flight(server: ServerProcess) -> int:
    """Requests taken and not yet answered."""
    return int(value(scrape(server), "cass_requests_in_flight"))


def complaints(server: ServerProcess) -> list[str]:
    """Lines of the log that are no JSON, or of a level above INFO."""
    return [line for line in server.lines if '"level": "INFO"' not in line]


def worker_pids(server: ServerProcess) -> dict[int, int]:
    """Process ids of a server's workers by their indices; each one's newest."""
    return {record["worker"]: record["pid"] for record in server.records("worker ready")}
