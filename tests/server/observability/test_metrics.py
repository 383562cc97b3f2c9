"""What the server counts, as Prometheus scrapes it."""

from __future__ import annotations

import os
import re
import resource
import sys
import types
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cass_core.errors import CassError
from cass_server.observability import metrics as metrics_module
from cass_server.observability.call import Call
from cass_server.observability.families import CODES, FAMILIES, REJECTIONS
from cass_server.observability.methods import METHODS
from cass_server.observability.metrics import Metrics, shared_memory
from cass_server.observability.prometheus import WorkerMetrics, serve_metrics
from tests.server.support.observed import Samples, exposed, samples, value
from tests.server.support.processes import LIMIT
from tests.support.programs import running_program


def fetch(port: int, query: str = "") -> Samples:
    """What a scrape over HTTP brings."""
    url = f"http://127.0.0.1:{port}/metrics{query}"
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return samples(answer.read().decode())


def buckets(samples: Samples, name: str, **labels: str) -> dict[str, float]:
    """Values by upper bound."""
    found = {}
    for (sample, pairs), count in samples.items():
        named = dict(pairs)
        if sample == f"{name}_bucket" and named.pop("le") and named == labels:
            found[dict(pairs)["le"]] = count
    return found


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands at 0, so that a request which began at -0.3 took 0.3 s."""
    monkeypatch.setattr(metrics_module, "time", types.SimpleNamespace(perf_counter=lambda: 0.0))


def ended(method: str, code: str, seconds: float = 0.0) -> Call:
    """The books of a request that ends now."""
    call = Call(method, (), -seconds)
    call.code = code
    return call


def count_some(metrics: Metrics) -> None:
    """Three requests: one of 16 images, one that is refused, one of a stream, not yet answered."""
    metrics.started()
    computed = ended("GenerateMask", "OK", 0.00045)
    computed.begun = computed.started + 0.00004
    computed.compute, computed.encode = 0.0003, 0.00006
    computed.size = 16, 240, 14720
    computed.received, computed.sent = 4000, 59000
    metrics.batched(3)
    metrics.finished(computed)
    metrics.started()
    refused = ended("ComputeLoss", "INVALID_ARGUMENT", 0.00005)
    refused.received = 7
    metrics.finished(refused)
    metrics.started()
    metrics.rejected("deadline")
    metrics.gpu_memory(1 << 30)
    metrics.kernel_loaded("compiled")
    metrics.kernel_compiled(1.5)


def test_scrape() -> None:
    metrics = Metrics()
    count_some(metrics)
    with serve_metrics("127.0.0.1", 0, WorkerMetrics([metrics], "1.2.3", "cuda:0")) as port:
        got = fetch(port)
        count_some(metrics)
        again = fetch(port)
        only = fetch(port, "?name[]=cass_images_total")
    assert only == {("cass_images_total", ()): 32}
    assert value(again, "cass_images_total") == 32
    parts = ("_bucket", "_count", "_sum")
    assert {key: n for key, n in got.items() if n and not key[0].endswith(parts)} == {
        ("cass_requests_total", (("code", "OK"), ("method", "GenerateMask"))): 1,
        ("cass_requests_total", (("code", "INVALID_ARGUMENT"), ("method", "ComputeLoss"))): 1,
        ("cass_requests_in_flight", ()): 1,
        ("cass_images_total", ()): 16,
        ("cass_boxes_total", ()): 240,
        ("cass_patches_total", ()): 14720,
        ("cass_received_bytes_total", ()): 4007,
        ("cass_sent_bytes_total", ()): 59000,
        ("cass_gpu_memory_bytes", ()): 1 << 30,
        ("cass_kernel_variants_total", (("origin", "compiled"),)): 1,
        ("cass_rejections_total", (("reason", "deadline"),)): 1,
        ("cass_build_info", (("device", "cuda:0"), ("version", "1.2.3"))): 1,
        ("cass_workers", ()): 1,
    }


@pytest.mark.parametrize(
    ("name", "first", "seconds"),
    [
        # The first bucket that holds it, by hand.
        ("cass_request_duration_seconds", "0.0005", 0.00045),
        ("cass_queue_wait_seconds", "5e-05", 0.00004),
        ("cass_compute_seconds", "0.0005", 0.0003),
        ("cass_encode_seconds", "0.0001", 0.00006),
    ],
)
def test_histograms_of_seconds(name: str, first: str, seconds: float) -> None:
    metrics = Metrics()
    count_some(metrics)
    got = exposed([metrics])
    cumulative = buckets(got, name, method="GenerateMask")
    assert list(cumulative) == [
        *("5e-05", "0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01", "0.02"),
        *("0.05", "0.1", "0.2", "0.5", "1.0", "2.0", "5.0", "10.0", "+Inf"),
    ]
    index = list(cumulative).index(first)
    assert list(cumulative.values()) == [0.0] * index + [1.0] * (18 - index)
    assert value(got, f"{name}_count", method="GenerateMask") == 1
    assert value(got, f"{name}_sum", method="GenerateMask") == pytest.approx(seconds)
    assert value(got, f"{name}_count", method="StreamMasks") == 0


def test_bounds_are_inclusive_and_the_last_bucket_has_none() -> None:
    metrics = Metrics()
    for seconds in (0.00005, 10.0, 11.0):
        metrics.finished(ended("GetServerInfo", "OK", seconds))
    got = exposed([metrics])
    cumulative = buckets(got, "cass_request_duration_seconds", method="GetServerInfo")
    assert (cumulative["5e-05"], cumulative["5.0"]) == (1, 1)
    assert (cumulative["10.0"], cumulative["+Inf"]) == (2, 3)


def test_batches() -> None:
    metrics = Metrics()
    for size in (1, 3, 1000):
        metrics.batched(size)
    got = exposed([metrics])
    bounds = ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "+Inf"]
    counts = [1, 1, 2, 2, 2, 2, 2, 2, 3]
    assert buckets(got, "cass_batch_requests") == dict(zip(bounds, counts, strict=True))
    assert value(got, "cass_batch_requests_sum") == 1004


def test_kernels() -> None:
    metrics = Metrics()
    for seconds in (0.02, 1.5, 3.5):
        metrics.kernel_compiled(seconds)
        metrics.kernel_loaded("compiled")
    metrics.kernel_loaded("cache")
    got = exposed([metrics])
    cumulative = buckets(got, "cass_kernel_compile_seconds")
    assert [cumulative[bound] for bound in ("0.01", "0.02", "1.0", "2.0", "5.0")] == [0, 1, 1, 2, 3]
    assert value(got, "cass_kernel_compile_seconds_sum") == pytest.approx(5.02)
    assert value(got, "cass_kernel_variants_total", origin="compiled") == 3
    assert value(got, "cass_kernel_variants_total", origin="cache") == 1


def test_every_series_has_its_own_slot() -> None:
    metrics = Metrics()
    expected: Samples = {}
    for m, method in enumerate(METHODS):
        for c, code in enumerate(CODES):
            for _ in range(times := 1 + m * len(CODES) + c):
                metrics.finished(ended(method, code))
            key = ("cass_requests_total", (("code", code), ("method", method)))
            expected[key] = times
    for r, reason in enumerate(REJECTIONS):
        for _ in range(1 + r):
            metrics.rejected(reason)
        expected["cass_rejections_total", (("reason", reason),)] = 1 + r
    got = exposed([metrics])
    assert {key: got[key] for key in expected} == expected


def test_threads_count_together() -> None:
    """None of what several count at the same time is lost."""
    metrics, each = Metrics(), 2000

    def count() -> None:
        for _ in range(each):
            metrics.started()
            metrics.finished(ended("GenerateMask", "OK"))
            metrics.batched(2)
            metrics.rejected("bytes")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(count) for _ in range(4)]:
                done.result(LIMIT)
    finally:
        sys.setswitchinterval(interval)
    got = exposed([metrics])
    assert value(got, "cass_requests_in_flight") == 0
    assert value(got, "cass_requests_total", method="GenerateMask", code="OK") == 4 * each
    assert value(got, "cass_batch_requests_sum") == 4 * each * 2
    assert value(got, "cass_rejections_total", reason="bytes") == 4 * each


def test_codes_are_grpcs() -> None:
    assert len(CODES) == 17
    assert {"OK", "CANCELLED", "UNAUTHENTICATED", "DATA_LOSS"} <= set(CODES)
    assert {code.name for code in grpc.StatusCode} == set(CODES)


@pytest.mark.parametrize("code", ["NO_SUCH_CODE", "", "299"])
def test_unknown_code(code: str) -> None:
    metrics = Metrics()
    metrics.finished(ended("GenerateMask", code))
    assert (
        value(exposed([metrics]), "cass_requests_total", method="GenerateMask", code="UNKNOWN") == 1
    )


COUNT = """
import os, sys
from cass_server.observability.metrics import Metrics
from cass_server.observability.call import Call

metrics = Metrics(os.open(sys.argv[1], os.O_RDWR))
for _ in range(int(sys.argv[2])):
    metrics.started()
    call = Call("StreamMasks", (), 0.0)
    call.code = "OK"
    metrics.finished(call)
metrics.started()
metrics.gpu_memory(1000)
print("counted", flush=True)
sys.stdin.read()
"""


def test_two_processes_and_a_replacement() -> None:
    """Counters are added up and never fall; gauges are of those that live."""
    shared = [shared_memory() for _ in range(3)]
    paths = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in shared]
    metrics = [*map(Metrics, shared)]
    with running_program(COUNT, paths[1], 40):
        with running_program(COUNT, paths[0], 3):
            assert sums(metrics) == (43, 2, 2000, 43)
        assert sums(metrics) == (43, 2, 2000, 43)
        metrics[0].restart()  # as a supervisor does whose worker is gone
        assert sums(metrics) == (43, 1, 1000, 43)
        with running_program(COUNT, paths[0], 500):
            assert sums(metrics) == (543, 2, 2000, 543)
    for descriptor in shared:
        os.close(descriptor)


def sums(metrics: Sequence[Metrics]) -> tuple[float, float, float, float]:
    """Requests answered and in flight, GPU memory, and the histogram's count."""
    got = exposed(metrics)
    return (
        value(got, "cass_requests_total", method="StreamMasks", code="OK"),
        value(got, "cass_requests_in_flight"),
        value(got, "cass_gpu_memory_bytes"),
        value(got, "cass_request_duration_seconds_count", method="StreamMasks"),
    )


def test_memory_that_cannot_be_had() -> None:
    """Reported when it is taken, not by a SIGBUS when it is counted in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(
            CassError, match="cannot keep metrics: too many open files; see ulimit -n"
        ):
            shared_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_workers() -> None:
    got = exposed([Metrics()], (3, 2))
    assert (value(got, "cass_workers"), value(got, "cass_worker_restarts_total")) == (3, 2)


def test_an_address_that_cannot_be_had() -> None:
    metrics = WorkerMetrics([Metrics()], "1", "cpu")
    with serve_metrics("127.0.0.1", 0, metrics) as port:
        reason = f"cannot serve metrics on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(CassError, match=reason):
            serve_metrics("127.0.0.1", port, metrics).__enter__()
    with pytest.raises(CassError, match=r"cannot serve metrics on 192\.0\.2\.1:0: "):
        serve_metrics("192.0.2.1", 0, metrics).__enter__()
    with serve_metrics("127.0.0.1", port, metrics):
        pass  # free again at once


def test_names() -> None:
    """By the rules of `promtool check metrics`, as far as they are about names and help texts.

    https://github.com/prometheus/client_golang/tree/main/prometheus/testutil/promlint
    """
    counted = Metrics()
    counted.certificate_expires("tls_certificate", 1.0)  # which is shown where there is one
    metrics = WorkerMetrics([counted], "1", "cpu")
    families = list(text_string_to_metric_families(generate_latest(metrics).decode()))
    assert len(families) == len(FAMILIES) + 3
    abbreviations = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "kib", "mib", "m", "h"}
    for family in families:
        assert re.fullmatch("cass(_[a-z]+)+", family.name)  # no capitals, no colons
        assert family.documentation
        words = family.name.split("_")
        assert not abbreviations & set(words)
        assert not {"milliseconds", "microseconds", "kilobytes", "megabytes"} & set(words)
        assert not {"counter", "gauge", "histogram", "summary"} & set(words)
        assert words[-1] not in {"count", "sum", "bucket", "total"}  # parsed without its _total
        shown = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert shown == {f"{family.name}_total"}
        elif family.type == "histogram":
            parts = ("bucket", "count", "sum")
            assert shown == {f"{family.name}_{part}" for part in parts}
        else:
            assert shown == {family.name}
            assert family.type == "gauge"
        for sample in family.samples:
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels)
            if family.type != "histogram":
                assert "le" not in sample.labels
