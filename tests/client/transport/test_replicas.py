"""Replicas that are restarted in turn, and a name that moves to another: no call fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from cass_client import CassClient
from tests.client.support.faults import all_serving, keep_asking, start
from tests.docker.stack.names import name_server
from tests.server.support.processes import LIMIT, lasting_ports
from tests.support.servers import serving

pytestmark = pytest.mark.timeout(120)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_rolling_restart() -> None:
    """No call of any thread or process fails, nor a stream."""
    context = multiprocessing.get_context("spawn")
    ports = lasting_ports(3)
    stop, outcomes = context.Event(), context.Queue()
    with (
        contextlib.ExitStack() as stack,
        all_serving(*(start("--port", port) for port in ports)) as servers,
        CassClient(",".join(s.address for s in servers), timeout=LIMIT) as client,
    ):
        arguments = (client, stop, outcomes)
        callers = [
            context.Process(target=keep_asking, args=arguments),
            threading.Thread(target=keep_asking, args=arguments),
        ]
        for caller in callers:
            caller.start()
            stack.callback(caller.join, LIMIT)
            stack.callback(stop.set)
        for port, server in zip(ports, servers, strict=True):
            assert server.stop() == 0
            stack.enter_context(serving("--port", port))
        stop.set()
        found = [outcomes.get(timeout=LIMIT) for _ in range(6)]
    assert all(isinstance(outcome, int) for outcome in found), found
    assert min(found) > 100


DNS_PROGRAM = """
    import sys
    from cass_client import CassClient
    from tests.client.support.faults import ask, assert_right
    client = CassClient(sys.argv[1], timeout=50)
    for seed, _ in enumerate(sys.stdin):
        assert_right([ask(client, seed)], [seed])
        print(seed, flush=True)
"""


@pytest.mark.slow
def test_the_address_behind_a_name_changes() -> None:
    (port,) = lasting_ports(1)
    with (
        all_serving(start("--port", port), start("--port", port, "--host", "127.0.0.2")) as servers,
        name_server("masks.example", ["127.0.0.1"]) as names,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(DNS_PROGRAM),
                f"dns://127.0.0.1:{names.port}/masks.example:{port}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_DNS_RESOLVER": "ares"},
        ) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None

        def answered() -> str:
            program.stdin.write("\n")
            program.stdin.flush()
            return program.stdout.readline()

        assert answered() == "0\n"
        names.addresses = ["127.0.0.2"]
        servers[0].kill()
        assert answered() == "1\n"
        program.stdin.close()
        assert program.wait(LIMIT) == 0
