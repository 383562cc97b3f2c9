"""A pod's process on this machine, and the probes that a kubelet sends it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s.manifests import Manifests, Object, image_environment
from tests.server.support.processes import status_name
from tests.support.servers import ServerProcess, server_process


@contextlib.contextmanager
def pod(
    manifests: Manifests,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[ServerProcess]:
    """The container's process with the manifest's variables, which may not be serving yet.

    Arguments of the command line count before the variables, and ``settings`` replace some.
    """
    cass = {name: value for name, value in image_environment().items() if name.startswith("CASS_")}
    env = cass | manifests.environment() | dict(settings or {})
    metrics = ("--metrics-host", "127.0.0.1", "--metrics-port", "0")
    with server_process(*metrics, *arguments, env=env, **options) as server:
        yield server


def grpc_probe(probe: Object, address: str) -> bool:
    """What a kubelet's gRPC probe finds, on a connection of its own and without TLS."""
    request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = check(request, timeout=probe["timeoutSeconds"])
        except grpc.RpcError:
            return False
    return status_name(answer) == "SERVING"


def exec_probe(probe: Object, program: Sequence[str], env: Mapping[str, str]) -> bool:
    """What an exec probe finds, with this program in place of its own."""
    try:
        done = subprocess.run(
            program,
            env={**os.environ, **env},
            timeout=probe["timeoutSeconds"],
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def passes(probe: Object, once: Callable[[], bool]) -> bool:
    """Whether a probe succeeds before it has failed as often as is too often."""
    return any(once() for _ in range(probe["failureThreshold"]))
