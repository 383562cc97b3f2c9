"""A cluster of Ray on this machine, and callers of a service on it, as one program.

Ray leaves sockets and warnings behind, so it is kept out of the tests' process. Reads commands from
standard input, a JSON list each, and writes the answers, a JSON value each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster

from cass.discovery import NAMESPACE, directory_name
from cass_client import CassClient, Tls
from tests.client.support.faults import ask, expected

# Not 127.0.0.1, for which Ray takes the machine's own address.
HEAD, *OTHERS = "127.0.0.2", "127.0.0.3", "127.0.0.4"
_SEEDS = range(8)
_ANSWER_SECONDS = 30.0


class Callers:
    """Threads that ask one client, which tries again, for masks that are known."""

    def __init__(self, service: str, number: int, pause: float) -> None:
        self._client = CassClient(f"ray:{service}", timeout=_ANSWER_SECONDS)
        self._pause = pause
        self._expected = [expected(seed) for seed in _SEEDS]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._record: dict[str, Any] = {"right": 0, "failures": [], "longest": 0.0}
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def record(self) -> dict[str, Any]:
        """Right answers, all others, and the longest that an answer took, in seconds."""
        with self._lock:
            return dict(self._record)

    def stop(self) -> dict[str, Any]:
        """Wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        return self.record()

    def _run(self) -> None:
        seed = 0
        while not self._stop.wait(self._pause):
            started, failure = time.monotonic(), ""
            try:
                if not np.array_equal(ask(self._client, _SEEDS[seed]), self._expected[seed]):
                    failure = f"wrong answer to {seed}"
            except Exception as error:
                failure = repr(error)
            with self._lock:
                self._record["right"] += not failure
                self._record["failures"] += [failure] if failure else []
                self._record["longest"] = max(self._record["longest"], time.monotonic() - started)
            seed = (seed + 1) % len(_SEEDS)


class Program:
    """The commands are its methods."""

    def __init__(self) -> None:
        small: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20}
        self._small = small
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**small, "node_ip_address": HEAD, "include_dashboard": False},
        )
        self._nodes: dict[str, Any] = {}
        for ip in OTHERS:
            self.add_node(ip)
        ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        self._callers: Callers | None = None

    def address(self) -> str:
        """The cluster's."""
        address: str = self._cluster.address
        return address

    def add_node(self, ip: str) -> None:
        """Start a node."""
        self._nodes[ip] = self._cluster.add_node(**self._small, node_ip_address=ip)

    def kill_node(self, ip: str) -> None:
        """End a node and all that runs on it, without a word."""
        self._cluster.remove_node(self._nodes.pop(ip), allow_graceful=False)

    def replicas(self, service: str) -> list[str]:
        """The addresses that the directory has; starts none."""
        end = time.monotonic() + _ANSWER_SECONDS
        while True:
            actor = ray.get_actor(directory_name(service), namespace=NAMESPACE)
            try:
                listing = ray.get(actor.watch.remote(0, 0.0), timeout=_ANSWER_SECONDS)
            except ray.exceptions.ActorUnavailableError:  # it is just starting again
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return list(listing.addresses)

    def actors(self) -> list[str]:
        """The names of all named actors."""
        return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]

    def kill_actor(self, name: str, namespace: str, for_good: bool) -> None:
        """End an actor's process at once, which Ray may start again if it is not for good."""
        ray.kill(ray.get_actor(name, namespace=namespace), no_restart=for_good)

    def call(self, service: str, number: int, pause: float) -> None:
        """Start callers."""
        self._callers = Callers(service, number, pause)

    def record(self) -> dict[str, Any]:
        """Of the callers."""
        assert self._callers is not None
        return self._callers.record()

    def hang_up(self) -> dict[str, Any]:
        """End the callers."""
        assert self._callers is not None
        record = self._callers.stop()
        self._callers = None
        return record

    def ask_secured(self, service: str, name: str, files: list[str], token: str) -> bool:
        """Whether masks are right, by mutual TLS: authority, certificate and key."""
        tls = Tls(*map(Path, files), server_name=name)
        target = f"ray:{service}"
        with CassClient(target, timeout=_ANSWER_SECONDS, tls=tls, token=token) as client:
            return np.array_equal(ask(client, _SEEDS[0]), expected(_SEEDS[0]))

    def start_other(self) -> None:
        """Start somebody else's application on Ray Serve."""

        @serve.deployment(ray_actor_options={"num_cpus": 0})
        class Other:
            def __call__(self) -> str:
                return f"process {os.getpid()}"

        self._other = serve.run(Other.bind(), name="other", route_prefix=None)

    def ask_other(self) -> str:
        """What that application answers."""
        answer: str = self._other.remote().result(timeout_s=_ANSWER_SECONDS)
        return answer

    def stop_other(self) -> None:
        """Stop that application."""
        serve.delete("other")

    def end(self) -> None:
        """End everything."""
        ray.shutdown()
        self._cluster.shutdown()


def main() -> None:
    """Obey until there are no more commands."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray writes to standard output too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # and so ends the cluster
    program = Program()
    with contextlib.ExitStack() as stack:
        stack.callback(program.end)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                answer = {"answer": getattr(program, name)(*arguments)}
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
