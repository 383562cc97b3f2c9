"""A real cluster of three nodes on this machine, and services on it, for tests."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cass.discovery import NAMESPACE, directory_name
from cass_client import CassClient
from tests.support.programs import ended
from tests.support.waiting import wait_until

LIMIT = 90.0
"""Seconds that no step takes unless something is broken."""
# Not 127.0.0.1, for which Ray takes the machine's own address.
HEAD, *OTHERS = "127.0.0.2", "127.0.0.3", "127.0.0.4"

_SMALL: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20}


class RayCluster:
    """Three nodes, to which this process is connected."""

    def __init__(self) -> None:
        head = {**_SMALL, "node_ip_address": HEAD, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: dict[str, Any] = {}
        for ip in OTHERS:
            self.add_node(ip)
        ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def add_node(self, ip: str) -> None:
        """Start a node."""
        self._nodes[ip] = self._cluster.add_node(**_SMALL, node_ip_address=ip)

    def kill_node(self, ip: str) -> None:
        """End a node and all that runs on it, without notice."""
        self._cluster.remove_node(self._nodes.pop(ip), allow_graceful=False)

    def server(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cass-server ray` on this cluster to its end."""
        command = ("-m", "cass_server", "ray", "--address", self._cluster.address, *arguments)
        return ended(*command, env={"COLUMNS": "200"}, limit=LIMIT)

    def end(self) -> None:
        """End everything."""
        ray.shutdown()
        self._cluster.shutdown()
        gc.collect()  # what it leaves is found here, not in another module's test


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster; ended with all that runs on it."""
    with (
        # The sockets' paths have to be short.
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = RayCluster()
        try:
            yield cluster
        finally:
            cluster.end()


def replicas(service: str = "cass") -> list[str]:
    """The addresses that the directory has; starts none."""
    found: list[str] = []

    def answered() -> bool:
        actor = ray.get_actor(directory_name(service), namespace=NAMESPACE)
        try:
            listing = ray.get(actor.watch.remote(0, 0.0), timeout=LIMIT)
        except ray.exceptions.ActorUnavailableError:  # it is just starting again
            return False
        found.extend(listing.addresses)
        return True

    wait_until(answered)
    return found


def actors() -> list[str]:
    """The names of all named actors."""
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]


def kill_actor(name: str, namespace: str, for_good: bool) -> None:
    """End an actor's process at once, which Ray may start again if it is not for good."""
    ray.kill(ray.get_actor(name, namespace=namespace), no_restart=for_good)


def host_of(address: str) -> str:
    """The node's address."""
    return address.rpartition(":")[0]


def worker_at(address: str) -> int:
    """The process that serves there."""
    (found,) = (pid for pid, port in workers().items() if port == address.rpartition(":")[2])
    return found


def workers() -> dict[int, str]:
    """The ports of all worker processes on this machine that serve on Ray, by their ids."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if b"cass_server.process.worker" in (folder / "cmdline").read_bytes():
                lines = (folder / "environ").read_bytes().split(b"\0")
                variables = dict(os.fsdecode(line).partition("=")[::2] for line in lines)
                if "RAY_JOB_ID" in variables:
                    found[int(folder.name)] = variables["CASS_WORKER_PORT"]
    return found


def most_images(address: str) -> int:
    """A limit that shows which settings a replica has."""
    with CassClient(address, timeout=LIMIT) as client:
        return client.info().limits["images"]
