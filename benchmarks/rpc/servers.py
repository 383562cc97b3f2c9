"""The servers side by side, all on one core, and a client's turn on the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common.processes import HOST, KEPT_MEMORY, cpu_seconds, on_core
from benchmarks.common.server import server_on
from benchmarks.common.workload import Case
from benchmarks.rpc.triton_server import ROOT, triton_server

OURS, THREADS, ASYNCIO, TRITON = "ours", "bare threads", "bare asyncio", "Triton"
STUB, INFERENCE = "ours, GenerateMask", "ours, ModelInfer"
"""Our server by a stub alone, and likewise by the Open Inference Protocol."""
_TURN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, the stack of its clients (`STACKS`) and their interpreter."""

    pid: int
    address: str
    stack: str
    python: str = sys.executable


Sample = dict[str, float]
"""One turn: ``rate``, ``client`` and ``server`` CPU µs per call, ``p50`` ms of a unary call."""


@contextlib.contextmanager
def running(core: int, triton: Path | None) -> Iterator[dict[str, Server]]:
    """All servers on a core, ended at the end; Triton from its virtual environment, if given."""
    variables = {**os.environ, **KEPT_MEMORY}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(server_on(core))
        servers = {
            name: Server(ours.process.pid, ours.address, kind)
            for name, kind in ((OURS, "ours"), (STUB, "stub"), (INFERENCE, "inference"))
        }
        with on_core(core):
            for name, kind in ((THREADS, "threads"), (ASYNCIO, "asyncio")):
                servers[name] = Server(*stack.enter_context(_bare_server(kind, variables)), "bare")
            if triton is not None:
                process = stack.enter_context(triton_server(triton, variables))
                servers[TRITON] = Server(*process, "triton", str(triton / "bin/python"))
        yield servers


@contextlib.contextmanager
def _bare_server(kind: str, variables: dict[str, str]) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "benchmarks.rpc.bare_server", kind]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"{HOST}:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def take_turn(
    server: Server, case: Case, seconds: float, core: int, keeps_memory: bool, expected: str = ""
) -> Sample:
    """One client for a while, on a core; with ``expected``, a file of masks, it compares them."""
    command = [server.python, "-m", "benchmarks.rpc.client", server.stack, server.address]
    command += [json.dumps(asdict(case)), str(seconds), *([expected] if expected else [])]
    variables = {**os.environ, **(KEPT_MEMORY if keeps_memory else {})}
    before = cpu_seconds(server.pid)
    with on_core(core):
        done = subprocess.run(
            command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True,
            timeout=seconds + _TURN_SECONDS,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the client failed: {server.stack}, {case}")
    outcome: Sample = json.loads(done.stdout)
    used = (cpu_seconds(server.pid) - before) / outcome.pop("calls") * 1e6
    return outcome | {"server": used}
