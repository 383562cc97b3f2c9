"""A server in a container that is limited to fewer cores than the machine has."""

from __future__ import annotations

import os

import pytest

from tests.core.kernels.test_cores import group_of
from tests.support.servers import serving

IN_GROUP = """
import os, sys
with open(sys.argv.pop(1) + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
from cass_server import cli
sys.argv.insert(1, "serve")
cli.main()
"""


def test_as_many_workers_as_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores, of which one is left")
    with group_of(1.0) as group:
        program = ("-c", IN_GROUP, str(group))
        with serving("--workers", "auto", program=program) as server:
            records = [line for line in server.lines if '"serving"' in line]
            assert ['"workers": 1' in line for line in records] == [True]
            assert server.stop() == 0
