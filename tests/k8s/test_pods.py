"""What the manifests say of a pod, tried with its process: probes, drain, replicas that are added.

That it needs no root file system to write to is tried with the images, in tests/docker.
"""

from __future__ import annotations

import signal
import sys
import time
from functools import partial
from pathlib import Path

import grpc
import pytest

from cass.v1 import cass_pb2_grpc
from cass_client import CassClient, Tls, Unavailable
from tests.client.support.faults import ask, assert_right
from tests.docker.stack.names import name_server
from tests.k8s.manifests import ROOT, Manifests, render
from tests.k8s.pods import exec_probe, grpc_probe, passes, pod
from tests.server.support.certificates import Authority, put
from tests.server.support.load import connect, is_answer, numbered_request
from tests.server.support.observed import in_flight, scrape, value
from tests.server.support.processes import LIMIT, held, lasting_ports, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    return render("cpu")


def test_probes_tell_a_pod_that_starts_from_one_that_serves(
    manifests: Manifests, tmp_path: Path
) -> None:
    (port,) = lasting_ports(1)
    address = f"127.0.0.1:{port}"
    with pod(manifests, "--port", port, program=held(tmp_path)) as server:
        with connect(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=LIMIT)
        for probe in manifests.probes.values():
            assert not grpc_probe(probe, address)
        (tmp_path / "warm").touch()
        server.wait_until_serving()
        for probe in manifests.probes.values():
            assert passes(probe, partial(grpc_probe, probe, address))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
        for probe in manifests.probes.values():
            assert not grpc_probe(probe, address)


def test_a_pod_that_is_full_is_alive_and_ready(manifests: Manifests, tmp_path: Path) -> None:
    """Every compute thread is taken, and as many requests are under way as may be."""
    (tmp_path / "warm").touch()
    with pod(manifests, "--max-in-flight", "8", program=held(tmp_path)) as server:
        server.wait_until_serving()
        # Two connections: one has no more than its share.
        with connect(server.address) as one, connect(server.address) as two:
            calls = [cass_pb2_grpc.CassServiceStub(end).GenerateMask for end in (one, two)]
            under_way = [calls[n % 2].future(numbered_request(n), timeout=LIMIT) for n in range(8)]
            wait_until(lambda: in_flight(server) == 8, server)
            with connect(server.address) as other, pytest.raises(grpc.RpcError) as refused:
                cass_pb2_grpc.CassServiceStub(other).GenerateMask(
                    numbered_request(8), timeout=LIMIT
                )
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for probe in manifests.probes.values():
                assert passes(probe, partial(grpc_probe, probe, server.address))
            (tmp_path / "go").touch()
            for number, answer in enumerate(under_way):
                assert is_answer(answer.result(timeout=LIMIT), number)


@pytest.mark.slow
def test_a_client_finds_a_pod_that_is_added_once_its_connection_is_old(
    manifests: Manifests,
) -> None:
    """Behind the name of the headless Service, with connections of a second in place of minutes."""
    (port,) = lasting_ports(1)
    aged = {"CASS_MAX_CONNECTION_AGE_SECONDS": "1"}
    assert aged.keys() <= manifests.environment().keys()
    first = pod(manifests, "--port", port, settings=aged)
    second = pod(manifests, "--port", port, "--host", "127.0.0.2", settings=aged)
    name = f"{manifests.of('Service')['metadata']['name']}.cass.svc"
    with first as one, second as other, name_server(name, ["127.0.0.1"]) as names:
        for server in (one, other):
            server.wait_until_serving()

        def is_asked() -> bool:
            answered = value(scrape(other), "cass_requests_total", method="GenerateMask", code="OK")
            return answered > 0

        with CassClient(f"dns://127.0.0.1:{names.port}/{name}:{port}", timeout=LIMIT) as client:
            assert_right([ask(client, 0)], [0])
            assert not is_asked()
            names.addresses = ["127.0.0.1", "127.0.0.2"]

            end = time.monotonic() + LIMIT
            while not is_asked():
                assert_right([ask(client, 1)], [1])
                assert time.monotonic() < end


@pytest.mark.slow
def test_with_tls_a_program_probes_what_a_kubelet_cannot(tmp_path: Path) -> None:
    """The files are those of the Secret, mounted elsewhere."""
    manifests = render("cpu", "tls")
    authority = Authority()
    served, mine = authority.issue("cass-headless"), authority.issue("loader")
    ca = put(tmp_path / "ca.crt", authority.certificate)
    put(tmp_path / "tls.crt", served.certificate)
    put(tmp_path / "tls.key", served.key)
    pair = put(tmp_path / "mine.crt", mine.certificate), put(tmp_path / "mine.key", mine.key)
    (mount,) = (one for one in manifests.container["volumeMounts"] if one["name"] == "tls")
    environment = manifests.environment()
    settings = {
        name: value.replace(mount["mountPath"], str(tmp_path), 1)
        for name, value in environment.items()
        if name.startswith("CASS_TLS_")
    }
    (port,) = lasting_ports(1)
    address = f"127.0.0.1:{port}"
    program = [sys.executable, str(ROOT / "docker" / "health.py")]
    probe = manifests.probes["readinessProbe"]
    once = partial(exec_probe, probe, program, environment | settings | {"CASS_PORT": port})
    with pod(manifests, "--port", port, settings=settings) as server:
        server.wait_until_serving()
        assert passes(probe, once)
        assert not grpc_probe(render("cpu").probes["readinessProbe"], address)
        stranger = CassClient(address, tls=Tls(ca, server_name="cass-headless"))
        with stranger, pytest.raises(Unavailable):
            ask(stranger, 0)
        with CassClient(address, tls=Tls(ca, *pair, server_name="cass-headless")) as client:
            assert_right([ask(client, 0)], [0])
        assert server.stop() == 0
    assert not once()
