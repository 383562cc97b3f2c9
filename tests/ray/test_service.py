"""Replicas on a Ray cluster of three nodes, under load: killed, replaced, updated, stopped.

Whoever started them has ended each time: `cass-server ray` is a process that is gone by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cass_client import CassClient, Tls, Unauthenticated
from cass_core.errors import CassError
from tests.client.support.faults import ask, assert_right
from tests.server.support.certificates import Authority, put
from tests.server.support.observed import samples, value
from tests.support.callers import Callers
from tests.support.callers import calling as callers_of
from tests.support.waiting import wait_until

serve = pytest.importorskip("ray.serve", reason="needs cass[ray]")

from tests.ray.cluster import (  # noqa: E402
    HEAD,
    LIMIT,
    RayCluster,
    actors,
    host_of,
    kill_actor,
    most_images,
    ray_cluster,
    replicas,
    worker_at,
    workers,
)
from tests.ray.services import RAY_WARNINGS  # noqa: E402

pytestmark = [pytest.mark.timeout(3 * LIMIT), *RAY_WARNINGS]

ARGUMENTS = ("--num-cpus", "0.5", "--drain-seconds", "10", "--timeout", "80")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Three nodes."""
    before = workers()
    with ray_cluster() as started:
        yield started
    wait_until(lambda: workers().keys() <= before.keys(), workers)


@contextlib.contextmanager
def calling(service: str = "cass", **options: Any) -> Iterator[Callers]:
    """Callers of a service, who have answers before and after what happens."""
    with callers_of(f"ray:{service}", timeout=30.0, **options) as callers:
        wait_until(callers.more(20))
        yield callers
        wait_until(callers.more(20))


@pytest.fixture(scope="module")
def started(cluster: RayCluster) -> str:
    """What the command wrote that started three replicas."""
    done = cluster.server(*ARGUMENTS, "--replicas", "3")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def service(cluster: RayCluster, started: str) -> RayCluster:
    """The cluster, with three replicas."""
    wait_until(lambda: len(replicas()) == 3, replicas)
    return cluster


def wait_for_others(before: list[str], gone: set[str]) -> None:
    """Until there are three replicas, with new ones in place of those that are gone."""

    def replaced() -> bool:
        now = set(replicas())
        return len(now) == 3 and now & set(before) == set(before) - gone

    wait_until(replaced, lambda: (before, gone, replicas()))


def test_starts_a_replica_on_each_node(service: RayCluster, started: str) -> None:
    addresses = started.split()
    assert addresses == replicas()
    assert {host_of(address) for address in addresses} == {HEAD, "127.0.0.3", "127.0.0.4"}
    assert all(most_images(address) == 4096 for address in addresses)


def test_a_server_process_killed(service: RayCluster) -> None:
    before = replicas()
    with calling():
        os.kill(worker_at(before[0]), signal.SIGKILL)
        wait_for_others(before, {before[0]})


def test_a_replica_actor_killed(service: RayCluster) -> None:
    before = replicas()
    name = next(name for name in actors() if name.startswith("SERVE_REPLICA::cass-"))
    with calling():
        kill_actor(name, "serve", True)
        wait_until(lambda: len(set(before) - set(replicas())) == 1)
        wait_for_others(before, set(before) - set(replicas()))


def test_a_node_killed(service: RayCluster) -> None:
    before = replicas()
    node = next(host for host in map(host_of, reversed(before)) if host != HEAD)
    gone = {address for address in before if host_of(address) == node}
    with calling():
        # A node takes all its processes along, while one that Ray lets go of may go on for a while.
        for address in gone:
            os.kill(worker_at(address), signal.SIGKILL)
        service.kill_node(node)
        wait_for_others(before, gone)
    assert node not in map(host_of, replicas())
    service.add_node(node)


@pytest.mark.parametrize("for_good", [True, False])
def test_the_directory_killed(service: RayCluster, for_good: bool) -> None:
    before = replicas()
    with calling():
        kill_actor("directory-of-cass", "cass", for_good)
        # With none to start it again, a replica does.
        wait_until(lambda: "directory-of-cass" in actors())
        # The first list that there is has them all.
        assert replicas() == before


def test_the_controller_of_serve_killed(service: RayCluster) -> None:
    before = replicas()
    with calling():
        kill_actor("SERVE_CONTROLLER_ACTOR", "serve", False)
        os.kill(worker_at(before[0]), signal.SIGKILL)
        wait_for_others(before, {before[0]})


def test_rolling_update(service: RayCluster) -> None:
    before = replicas()
    with calling():
        done = service.server(*ARGUMENTS, "--replicas", "3", "--max-images", "77")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == replicas()
    assert not set(before) & set(replicas())
    assert [most_images(address) for address in replicas()] == [77, 77, 77]


def test_an_update_that_cannot_start(service: RayCluster, tmp_path: Path) -> None:
    before, limits = replicas(), most_images(replicas()[0])
    files = ("--tls-certificate", str(tmp_path / "none"), "--tls-key", str(tmp_path / "none"))
    with calling():
        done = service.server(*ARGUMENTS, "--replicas", "3", *files)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"cass-server: tls_certificate {tmp_path / 'none'}: cannot be read: "
            "No such file or directory"
        )
    assert replicas() == before
    assert most_images(before[0]) == limits


def test_secured(service: RayCluster, tmp_path: Path) -> None:
    """By mutual TLS and a token, which Serve's checks of its health pass too."""
    authority, token = Authority(), "token-of-a-caller"
    pair = authority.issue("cass.example")
    files = {
        "--tls-client-ca": put(tmp_path / "ca.pem", authority.certificate),
        "--tls-certificate": put(tmp_path / "tls.pem", pair.certificate),
        "--tls-key": put(tmp_path / "key.pem", pair.key),
        "--token-file": put(tmp_path / "tokens", token.encode()),
    }
    options = [str(part) for option in files.items() for part in option]
    done = service.server(*ARGUMENTS, "--name", "secured", *options)
    assert done.returncode == 0, done.stderr
    tls = Tls(*list(files.values())[:3], server_name="cass.example")
    with CassClient("ray:secured", timeout=LIMIT, tls=tls, token=token) as client:
        assert_right([ask(client, 0)], [0])
    with (
        CassClient("ray:secured", timeout=LIMIT, tls=tls, token="another-token-of-one") as client,
        pytest.raises(Unauthenticated),
    ):
        ask(client, 0)
    stopped = service.server("--name", "secured", "--stop")
    assert stopped.returncode == 0, stopped.stderr


@pytest.mark.parametrize("serve_has_ended", [False, True])
def test_stopped_by_somebody_else(monkeypatch: pytest.MonkeyPatch, serve_has_ended: bool) -> None:
    """Who waits until it runs is told at once; who stops it too finds it stopped."""
    from ray.exceptions import ActorDiedError
    from ray.serve.schema import ServeStatus

    from cass_server.ray import deployment

    def status() -> ServeStatus:
        if serve_has_ended:
            raise ActorDiedError
        return ServeStatus()

    monkeypatch.setattr("ray.serve.status", status)
    monkeypatch.setattr(deployment, "close_directory", lambda _: False)
    with pytest.raises(CassError, match=r"^service cass was stopped meanwhile$"):
        deployment.wait_until_running("cass", LIMIT, pytest.fail)
    with pytest.raises(CassError, match=r"^no service cass on this cluster$"):
        deployment.stop("cass", LIMIT, pytest.fail)


def start_other() -> Any:
    """Start another application on Ray Serve, which answers by the id of its process."""

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Other:
        def __call__(self) -> int:
            return os.getpid()

    return serve.run(Other.bind(), name="other", route_prefix=None)


def answers_of(target: str) -> float:
    """The masks that a replica has made, by its metrics."""
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=LIMIT) as answer:
        found = samples(answer.read().decode())
    return value(found, "cass_requests_total", method="GenerateMask", code="OK")


def test_scaled_by_load_beside_others(service: RayCluster) -> None:
    """Up and down under load; neither another service nor another application notices."""
    before = replicas()
    other = start_other()
    answer = other.remote().result(timeout_s=LIMIT)
    bounds = ("--min-replicas", "1", "--max-replicas", "2", "--target-in-flight", "0.1")
    options = (*bounds, "--calm-seconds", "1", "--metrics-port", "0")
    done = service.server(*ARGUMENTS, "--name", "busy", *options)
    assert done.returncode == 0, done.stderr
    (first,) = done.stdout.split()
    with calling("busy", number=6):
        wait_until(lambda: len(replicas("busy")) == 2)
    (found,) = json.loads(service.server("--name", "busy", "--scrape-targets").stdout)
    assert found["labels"] == {"service": "busy"}
    answered = [answers_of(target) for target in found["targets"]]
    assert len(answered) == 2
    assert all(answered)
    with calling("busy", number=1, pause=0.2) as callers:
        wait_until(lambda: len(replicas("busy")) == 1)
        wait_until(callers.more(20))
    assert first.startswith("127.0.0.")
    stopped = service.server("--name", "busy", "--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert replicas() == before
    assert other.remote().result(timeout_s=LIMIT) == answer
    serve.delete("other")


def test_stops(service: RayCluster) -> None:
    """The last of the module: nothing is left, nor Serve, which it started."""
    workers_before = {worker_at(address) for address in replicas()}
    done = service.server("--stop", "--timeout", "80")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "cass: stopped"
    assert not workers_before & workers().keys()
    assert actors() == []
    again = service.server("--stop")
    assert again.returncode == 1
    assert again.stderr == "cass-server: no service cass on this cluster\n"
