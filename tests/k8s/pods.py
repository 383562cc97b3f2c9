"""A pod's process on this machine, and the probes that a kubelet sends it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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

    Args:
        manifests: whose pod it is.
        arguments: of the command line; they count before the variables, as do the address of
            `server_process` and its device.
        settings: variables in place of the manifest's.
        options: of `server_process`.
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


class SecretVolume:
    """A Secret's folder in a pod, which a kubelet fills and replaces as a whole.

    The files are links through ``..data``, a link to the folder of the version in force
    (https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter).

    Args:
        folder: where it is mounted; it is made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._version = 0

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Put a version of the Secret in force."""
        before = self._folder / f"..{self._version}"
        self._version += 1
        version = self._folder / f"..{self._version}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
        fresh = self._folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self._folder / "..data")
        for name in files:
            with contextlib.suppress(FileExistsError):
                (self._folder / name).symlink_to(f"..data/{name}")
        if before.exists():
            for file in before.iterdir():
                file.unlink()
            before.rmdir()
