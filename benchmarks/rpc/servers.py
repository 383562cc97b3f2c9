"""The servers side by side, all on one core, and a client's turn on the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.common.processes import HOST, KEPT_MEMORY, cpu_seconds, on_core
from benchmarks.common.watched_server import watched_server
from benchmarks.rpc.client import Outcome, Run
from benchmarks.rpc.triton_server import ROOT, triton_server

OURS, THREADS, ASYNCIO, TRITON = "ours", "bare threads", "bare asyncio", "Triton"
_READY_SECONDS = 30.0
_TURN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        pid: its process.
        address: where it listens.
        client: which client calls it, as `Run` has it.
        python: the interpreter of that client.
    """

    pid: int
    address: str
    client: str
    python: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn; times in µs a call, but for ``p50``: milliseconds of a unary call."""

    rate: float
    client: float
    server: float
    p50: float


@contextlib.contextmanager
def running(core: int | None, triton: Path | None) -> Iterator[dict[str, Server]]:
    """All servers, each ready or waited for by its client; ended at the end.

    Args:
        core: the only one that they may run on, if given.
        triton: the environment with NVIDIA Triton, if there is one.
    """
    with contextlib.ExitStack() as stack:
        servers = {}
        with on_core(core):
            ours = stack.enter_context(watched_server("--device", "cpu"))
            servers[OURS] = Server(ours.pids()[0], ours.address, "ours", sys.executable)
            for name, kind in ((THREADS, "threads"), (ASYNCIO, "asyncio")):
                pid, address = stack.enter_context(_bare_server(kind))
                servers[name] = Server(pid, address, "bare", sys.executable)
            if triton is not None:
                variables = {**os.environ, **KEPT_MEMORY}
                pid, address = stack.enter_context(triton_server(triton, variables))
                servers[TRITON] = Server(pid, address, "triton", str(triton / "bin/python"))
        wait_until_serving(ours.address)
        yield servers


@contextlib.contextmanager
def _bare_server(kind: str) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "benchmarks.rpc.bare_server", kind]
    variables = {**os.environ, **KEPT_MEMORY}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"{HOST}:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def wait_until_serving(address: str) -> None:
    """Return once the health service says SERVING.

    Raises:
        SystemExit: it says something else.
    """
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest()
        answer = check(request, timeout=_READY_SECONDS, wait_for_ready=True)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise SystemExit(f"{address} is not serving: {answer}")


def turn(server: Server, run: Run, core: int | None, keeps_memory: bool) -> Sample:
    """One client for a while.

    Args:
        server: whom it calls.
        run: what it does, whatever its client and address.
        core: the only one that it may run on, if given.
        keeps_memory: whether its allocator keeps what it frees.

    Raises:
        SystemExit: it failed.
    """
    run = replace(run, client=server.client, address=server.address)
    command = [server.python, "-m", "benchmarks.rpc.client", json.dumps(asdict(run))]
    variables = {**os.environ, **(KEPT_MEMORY if keeps_memory else {})}
    before = cpu_seconds(server.pid)
    with on_core(core):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
            timeout=run.seconds + _TURN_SECONDS,
        )
    if done.returncode:
        raise SystemExit(f"the client failed: {run}")
    outcome = Outcome(**json.loads(done.stdout))
    used = (cpu_seconds(server.pid) - before) / outcome.calls * 1e6
    return Sample(outcome.rate, outcome.cpu_microseconds, used, outcome.p50_milliseconds)
