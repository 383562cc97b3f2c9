"""Several worker processes of one real server: killed, replaced and stopped under load."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from tests.server.support.details import fails
from tests.server.support.load import (
    Caller,
    connect,
    is_answer,
    more_answers,
    numbered_request,
)
from tests.server.support.observed import Samples, counters, in_flight, scrape, value, worker_pids
from tests.server.support.processes import LIMIT, cass_server, health, wait_until
from tests.support.servers import ServerProcess, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server with two workers and metrics."""
    with serving("--workers", "2", "--metrics-port", "0") as started:
        yield started
        assert started.stop() == 0


def worker_of(channel: grpc.Channel) -> int:
    """Process id of the worker that has the connection of a channel: request ids have it."""
    with fails("INVALID_ARGUMENT") as caught:
        cass_pb2_grpc.CassServiceStub(channel).GenerateMask(pb.GenerateMaskRequest(), timeout=LIMIT)
    return int(dict(caught.value.trailing_metadata())["x-request-id"].split("-")[1])


@contextlib.contextmanager
def callers_of_each(server: ServerProcess, callers: int = 2) -> Iterator[dict[int, list[Caller]]]:
    """So many callers of each worker, which retry, by its index; stopped at the end."""
    indices = {pid: index for index, pid in worker_pids(server).items()}
    found: dict[int, list[Caller]] = {index: [] for index in indices.values()}
    with contextlib.ExitStack() as stack:
        while min(map(len, found.values())) < callers:
            channel = connect(server.address)
            callers_there = found[indices[worker_of(channel)]]
            first = 1000 * sum(map(len, found.values()))
            callers_there.append(Caller(channel, first, retry=True))
            stack.callback(callers_there[-1].stop)
        yield found


def test_a_folder_of_modules_is_none_of_the_workers(tmp_path: Path) -> None:
    """Neither the server nor its workers import from the folder that they are started in."""
    for name in ("cass_core", "cass_server", "numba", "grpc", "json"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('of the working folder')")
    program = ("-P", "-m", "cass_server", "serve")  # as the command `cass-server` does
    with serving("--workers", "2", program=program, cwd=tmp_path) as started:
        assert started.stop() == 0


def test_new_connections_are_spread_over_the_workers(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connect(server.address)) for _ in range(32)]
        assert {worker_of(channel) for channel in channels} == {*worker_pids(server).values()}
    assert worker_pids(server).keys() == {0, 1}
    assert server.process.pid not in worker_pids(server).values()


def test_a_worker_killed_under_load(server: ServerProcess) -> None:
    """Calls on its connections fail, once; after a retry every answer comes, and is right."""
    killed = worker_pids(server)[0]
    seen: list[Samples] = [scrape(server)]

    def look() -> Samples:
        """The metrics now; what counts must not have fallen."""
        seen.append(scrape(server))
        last, now = map(counters, seen[-2:])
        assert {key for key in last if now[key] < last[key]} == set()
        return seen[-1]

    with callers_of_each(server) as found:
        everybody = [*chain(*found.values())]
        wait_until(more_answers(everybody), server)
        look()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: restarts(look()) == restarts(seen[0]) + 1, server)
        wait_until(lambda: worker_pids(server)[0] != killed, server)
        wait_until(more_answers(everybody), server)
        assert value(look(), "cass_workers") == 2
    for caller in found[1]:
        assert caller.record.errors == []
    for caller in found[0]:
        # None where gRPC itself sends again what the worker had not begun with.
        assert set(caller.record.codes) <= {"UNAVAILABLE"}
    assert [number for caller in everybody for number in caller.record.wrong] == []

    wait_until(lambda: in_flight(server) == 0, server)
    answered = sum(caller.record.right for caller in everybody)
    failed = sum(len(caller.record.errors) for caller in everybody)
    # The worker may have counted what it could not send any more.
    assert answered <= computed(look()) - computed(seen[0]) <= answered + failed


def test_workers_need_no_folder() -> None:
    """On a read-only system, or with a cleaner of temporary files, also one started later."""
    code = "import tempfile; tempfile.tempdir = '/nowhere'; from cass_server import cli; cli.main()"
    options = ("--workers", "2", "--metrics-port", "0")
    with serving(*options, program=("-c", code, "serve")) as server:
        first = worker_pids(server)
        with connect(server.address) as channel:
            stub = cass_pb2_grpc.CassServiceStub(channel)
            assert is_answer(stub.GenerateMask(numbered_request(7), timeout=LIMIT), 7)
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: worker_pids(server)[0] != first[0], server)
        assert computed(scrape(server)) == 1
        assert server.stop() == 0


def restarts(samples: Samples) -> float:
    """Workers that were replaced."""
    return value(samples, "cass_worker_restarts_total")


def computed(samples: Samples) -> float:
    """Masks that were answered."""
    return value(samples, "cass_requests_total", method="GenerateMask", code="OK")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_the_workers_of_another_server_share(
    server: ServerProcess, workers: str
) -> None:
    port = server.address.rpartition(":")[2]
    second = cass_server("serve", "--port", port, "--device", "cpu", "--workers", workers)
    assert second.stderr.splitlines()[-1] == (
        f"cass-server: cannot listen on {server.address}: Address already in use"
    )
    assert second.returncode == 1
    assert health(server.address) == "SERVING"


def test_a_worker_for_each_core() -> None:
    with serving("--workers", "auto", "--metrics-port", "0") as server:
        assert value(scrape(server), "cass_workers") == len(os.sched_getaffinity(0))
        assert server.stop() == 0
