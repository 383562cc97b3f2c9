"""A process that may have too little of something says of what, in a line."""

from __future__ import annotations

import resource
from functools import partial

import pytest

from cass_server.resource_limits import exhausted
from tests.support.programs import ended

KIB = 1 << 10


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("limit", "value", "reasons"),
    [
        (resource.RLIMIT_NOFILE, 8, {"too many open files; see ulimit -n"}),
        (
            resource.RLIMIT_AS,
            330_000 * KIB,
            {
                "too little memory; see ulimit -v, and the container's limit",
                "no more threads can be started; see ulimit -u and -v, and the container's limits",
            },
        ),
    ],
    ids=["files", "memory"],
)
def test_a_start_with_too_little(limit: int, value: int, reasons: set[str], workers: str) -> None:
    done = ended(
        *("-m", "cass_server", "serve", "--port", "0", "--device", "cpu", "--workers", workers),
        env={"OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=partial(resource.setrlimit, limit, (value, value)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert told
    assert {line.removeprefix("cass-server: ") for line in told} <= reasons


def test_what_led_to_an_error() -> None:
    memory = "too little memory; see ulimit -v, and the container's limit"
    loading = OSError("Could not find/load shared object file")
    loading.__cause__ = OSError("libllvmlite.so: failed to map segment from shared object")
    assert exhausted(loading) == memory
    assert exhausted(MemoryError()) == exhausted(OSError(12, "Cannot allocate memory")) == memory
    assert exhausted(RuntimeError("a fault")) == exhausted(OSError(2, "No such file")) == ""
