"""A log that nobody reads, and callers who fill it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.hostile.support.scene import Scene, under_attack
from tests.server.support.load import numbered_request, service_of
from tests.server.support.observed import scrape, value
from tests.server.support.processes import LIMIT
from tests.server.support.raw_http2 import Connection, opening, request

BAD = numbered_request(3)
BAD.mask_spec.patch_size = 0
CALLS = 1000


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nobody_reads_the_log(record_property: Callable[[str, Any], None], workers: str) -> None:
    attack = f"unread log, {workers} workers"
    options = ("--metrics-port", "0", "--workers", workers)
    with under_attack(record_property, attack, *options) as scene:
        stop_reading(scene)
        refused(scene.address, CALLS)
        scene.good.wait_more()
        got = scrape(scene.server)
        dropped = value(got, "cass_log_lines_dropped_total", reason="rate")
        assert CALLS // 2 <= dropped < CALLS
        scene.stop_good()
        # It ends though nobody reads; what had room in the pipe is there.
        scene.server.process.terminate()
        assert scene.server.process.wait(LIMIT) == 0


def test_the_last_lines_come_out_once_somebody_reads(
    record_property: Callable[[str, Any], None],
) -> None:
    with under_attack(record_property, "unread log, read at the end") as scene:
        stop_reading(scene)
        refused(scene.address, CALLS)
        scene.stop_good()
        scene.server.reads.set()
        assert scene.server.stop() == 0
        assert scene.server.records()[-1]["event"] == "stopped"


def test_headers_that_are_no_text(record_property: Callable[[str, Any], None]) -> None:
    """gRPC logs each, whole, with a traceback."""
    with under_attack(record_property, "headers that are no UTF-8") as scene:
        frames = request("GenerateMask", numbered_request(3), x="y" * 120)
        spoilt = frames.replace(b"y" * 120, b"\xff" * 120)
        for _ in range(CALLS):
            with Connection(scene.address) as client:
                client.send(opening(), spoilt)
                assert client.answer()
        scene.good.wait_more()
        scene.stop_good()
        assert scene.server.stop() == 0
        assert 100 <= len(scene.server.records()) < CALLS
        assert max(map(len, scene.server.lines)) < 20_000


def stop_reading(scene: Scene) -> None:
    """From the next line on nobody reads, and some 16 lines fill the pipe."""
    scene.server.reads.clear()
    assert scene.server.process.stderr is not None
    fcntl.fcntl(scene.server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)


def refused(address: str, calls: int) -> None:
    """Calls for which the server logs a line each."""
    with service_of(address) as stub:
        for _ in range(calls):
            with contextlib.suppress(grpc.RpcError):
                stub.GenerateMask(BAD, timeout=LIMIT)
                raise AssertionError("it was answered")
