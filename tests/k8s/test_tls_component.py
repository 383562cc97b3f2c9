"""The component for TLS, tried with a pod's process and a Secret that is replaced."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from cass_client import CassClient, Tls, Unavailable
from tests.client.support.faults import ask, assert_right
from tests.k8s.manifests import ROOT, Manifests, render
from tests.k8s.pods import SecretVolume, exec_probe, grpc_probe, passes, pod
from tests.server.support.certificates import Authority, Pair, put, shown_serial
from tests.server.support.processes import LIMIT, lasting_ports

pytestmark = pytest.mark.timeout(120)

NAME = "cass-headless"
"""What the server's certificate is for."""


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    return render("cpu", "tls")


@pytest.fixture
def program() -> list[str]:
    """The probes' program."""
    return [sys.executable, str(ROOT / "docker" / "health.py")]


def mounted(manifests: Manifests, folder: Path) -> dict[str, str]:
    """The variables of TLS, for a Secret that is mounted at this folder."""
    (mount,) = (one for one in manifests.container["volumeMounts"] if one["name"] == "tls")
    return {
        name: value.replace(mount["mountPath"], str(folder), 1)
        for name, value in manifests.environment().items()
        if name.startswith("CASS_TLS_")
    }


def secret(authority: Authority, pair: Pair) -> dict[str, bytes]:
    return {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}


def pair(name: str, issued: Pair) -> dict[str, bytes]:
    """The files of a client."""
    return {f"{name}.pem": issued.certificate, f"{name}.key": issued.key}


def test_a_secret_is_replaced_while_calls_run(
    manifests: Manifests, program: list[str], tmp_path: Path
) -> None:
    """The pod stays healthy, and new connections are shown the new certificate."""
    authority = Authority()
    volume = SecretVolume(tmp_path / "tls")
    volume.publish(secret(authority, authority.issue(NAME)))
    files = {"ca.pem": authority.certificate, **pair("loader", authority.issue("loader"))}
    for name, content in files.items():
        put(tmp_path / name, content)
    trusted = tmp_path / "ca.pem"
    known = Tls(trusted, tmp_path / "loader.pem", tmp_path / "loader.key", NAME)
    (port,) = lasting_ports(1)
    address = f"127.0.0.1:{port}"
    probe = manifests.probes["readinessProbe"]
    settings = mounted(manifests, tmp_path / "tls")
    env = manifests.environment() | settings | {"CASS_PORT": port}
    stop, answered = threading.Event(), threading.Semaphore(0)

    def keep_asking(client: CassClient) -> None:
        while not stop.is_set():
            assert_right([ask(client, 0)], [0])
            answered.release()

    once = partial(exec_probe, probe, program, env)
    with pod(manifests, "--port", port, settings=settings) as server:
        server.wait_until_serving()
        assert passes(probe, once)
        # Why the probe is a program.
        assert not grpc_probe(render("cpu").probes["readinessProbe"], address)
        stranger = CassClient(address, tls=Tls(trusted, server_name=NAME))
        with stranger, pytest.raises(Unavailable):
            ask(stranger, 0)
        with CassClient(address, tls=known) as client, ThreadPoolExecutor(1) as thread:
            asking = thread.submit(keep_asking, client)
            try:
                for _ in range(2):
                    assert answered.acquire(timeout=LIMIT)
                    fresh = authority.issue(NAME)
                    volume.publish(secret(authority, fresh))
                    assert shown_serial(address) == fresh.serial
                    with CassClient(address, tls=known) as another:
                        assert_right([ask(another, 1)], [1])
                assert passes(probe, once)
                assert answered.acquire(timeout=LIMIT)
            finally:
                stop.set()
            asking.result(timeout=LIMIT)  # raises what a call raised
        assert server.stop() == 0
    assert not once()
