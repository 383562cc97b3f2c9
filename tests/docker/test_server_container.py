"""The server's image at work: requests, health, restrictions, memory and the end."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_client import CassClient, MaskSpec
from tests.docker.asking import PLAIN, in_flight, is_right
from tests.docker.engine import LIMIT, Container, Engine
from tests.server.support.load import connect
from tests.server.support.requests import mask_request

pytestmark = pytest.mark.timeout(120, func_only=True)  # images may have to be built first

MEBIBYTE = 1 << 20

_SAME_KERNELS = """
import os, pathlib
def kernels(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).rglob("*.nb?")}
built = kernels("/opt/cass/kernels")
print(len(built) > 0 and kernels(os.environ["NUMBA_CACHE_DIR"]) == built)
"""

# The file's name in cgroups of version 2 and 1.
_MEMORY_LIMIT = """
cd /sys/fs/cgroup && cat memory.max || cat memory/memory.limit_in_bytes || true
"""
_PROCESSOR_LIMIT = """
cd /sys/fs/cgroup && cat cpu.max || cat cpu/cpu.cfs_quota_us || true
"""


def test_plain_text_has_to_be_asked_for(engine: Engine, server_image: str) -> None:
    with engine.container(server_image) as server:
        assert server.wait() == 2
        assert "tls_certificate" in server.logs()


def test_answers_and_health_follow_the_server(engine: Engine, server_image: str) -> None:
    """The numbers are those of the core."""
    with engine.container(server_image, *PLAIN) as server:
        server.wait_until(server.is_healthy)
        with CassClient(server.published(50051)) as client:
            assert is_right(client)
        server.signal("SIGSTOP")
        assert not server.is_healthy()
        server.signal("SIGCONT")
        server.wait_until(server.is_healthy)


def test_runs_without_any_rights(engine: Engine, server_image: str) -> None:
    """With no root file system to write to, no capabilities, and a user that nobody knows."""
    restrictions = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--user", "54321:54321")
    restrictions += ("--security-opt", "no-new-privileges")
    with engine.container(server_image, *PLAIN, *restrictions) as server:
        server.wait_until_serving()
        assert server.is_healthy()
        with CassClient(server.published(50051)) as client:
            assert is_right(client)
        # Nothing had to be compiled.
        assert server.execute("python", "-c", _SAME_KERNELS) == "True"


def test_several_workers_in_one_container(engine: Engine, server_image: str) -> None:
    with engine.container(server_image, *PLAIN, "--env", "CASS_WORKERS=2") as server:
        server.wait_until_serving()
        with CassClient(server.published(50051)) as client:
            assert is_right(client)
        server.signal("SIGTERM")
        assert server.wait() == 0


def test_workers_are_as_many_as_the_limit_of_processors(engine: Engine, server_image: str) -> None:
    """Not as many as the machine has."""
    options = ("--cpus", "1", "--env", "CASS_WORKERS=auto")
    with engine.container(server_image, *PLAIN, *options) as server:
        server.wait_until_serving()
        if "100000" not in server.execute("sh", "-c", _PROCESSOR_LIMIT).split():
            pytest.skip("limits of processors have no effect here")
        (serving,) = (line for line in server.logs().splitlines() if '"serving"' in line)
        assert json.loads(serving)["workers"] == 1


def test_sigterm_under_load(engine: Engine, server_image: str) -> None:
    """What is under way is answered, and the exit code is 0."""
    # Each box covers the whole map: seconds of work.
    slow = {
        "boxes": [np.tile(np.array([[0, 0, 4096, 4096]], np.float32), (10_000, 1))],
        "image_size": (4096, 4096),
        "feature_map": (512, 512),
        "spec": MaskSpec(patch_size=1),
        "dtype": "uint8",
    }
    options = ("--publish", "127.0.0.1::9090", "--env", "CASS_DRAIN_SECONDS=100")
    with (
        engine.container(server_image, *PLAIN, *options) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        server.wait_until_serving()
        with CassClient(server.published(50051), timeout=LIMIT) as client:
            asked = [threads.submit(client.generate_mask, **slow) for _ in range(3)]
            server.wait_until(lambda: in_flight(server) == 3)
            server.signal("SIGTERM")
            for answer in asked:
                assert (answer.result() == 255).all()
        assert server.wait() == 0


def test_sigterm_before_it_serves(engine: Engine, server_image: str) -> None:
    # A processor that the image has no kernels for: compiling them takes long.
    other = ("--env", "NUMBA_CPU_NAME=x86-64")
    with engine.container(server_image, *PLAIN, *other) as server:
        server.wait_until(lambda: _handles_sigterm(server))
        server.signal("SIGTERM")
        # Before or after the server has a handler of its own.
        assert server.wait() in (128 + signal.SIGTERM, 0)
        assert "serving" not in server.logs()


def test_limits_come_before_the_kernel_s(engine: Engine, server_image: str) -> None:
    """A server with a memory limit refuses what would not fit, and goes on."""
    limit = 400 * MEBIBYTE
    memory = ("--memory", str(limit), "--memory-swap", str(limit))
    limits = {"MAX_MESSAGE_BYTES": "8MiB", "MAX_PATCHES": "4000000", "MAX_QUEUE_BYTES": "64MiB"}
    # All calls below are on one connection; gRPC refuses more with UNAVAILABLE.
    limits |= {"MAX_STREAMS_PER_CONNECTION": "64", "MAX_IN_FLIGHT": "64"}
    options = [f"--env=CASS_{name}={value}" for name, value in limits.items()]
    with engine.container(server_image, *PLAIN, *memory, *options) as server:
        server.wait_until_serving()
        if str(limit) not in server.execute("sh", "-c", _MEMORY_LIMIT):
            pytest.skip("memory limits have no effect here")
        with connect(server.published(50051)) as channel:
            ask = cass_pb2_grpc.CassServiceStub(channel).GenerateMask
            assert _code(ask, mask_request(side=1 << 14)) == "INVALID_ARGUMENT"  # a GiB of mask
            too_long = mask_request()
            too_long.boxes.xyxy = bytes(512 * MEBIBYTE)
            assert _code(ask, too_long) == "RESOURCE_EXHAUSTED"
            # Each takes 15 MiB, all of them more than there is.
            many = [ask.future(mask_request(side=1980), timeout=LIMIT) for _ in range(60)]
            codes = {call.code() for call in many}
            assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        with CassClient(server.published(50051)) as client:
            assert is_right(client)
        assert server.state()["OOMKilled"] is False


def _code(ask: grpc.UnaryUnaryMultiCallable, request: pb.GenerateMaskRequest) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        ask(request, timeout=LIMIT)
    return str(raised.value.code().name)


def _handles_sigterm(server: Container) -> bool:
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", server.execute("cat", "/proc/1/status"), re.M)
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)
