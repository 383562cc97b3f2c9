"""Services on Ray for tests: a directory as `cass.discovery` has it, and processes that ask.

It is a file of its own because Ray's workers and spawned processes import it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import ray

from cass.discovery import NAMESPACE, Listing, directory_name
from cass_client import CassClient
from cass_client.ray import MaskBatch
from tests.client.support.faults import SIZE, SPEC, ask, assert_right
from tests.server.support.processes import LIMIT
from tests.support.waiting import wait_until

# Ray leaves files and sockets to the collector.
RAY_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore::{ignored}")
    for ignored in (
        "ResourceWarning",
        "pytest.PytestUnraisableExceptionWarning",
        "FutureWarning:ray",
        "DeprecationWarning:ray",
    )
]

_versions = itertools.count(1)


class _Directory:
    """The actor; which list it has is decided by the test."""

    def __init__(self, version: int, addresses: tuple[str, ...]) -> None:
        self._listing = Listing(version, addresses)
        self._changed = asyncio.Condition()

    async def put(self, version: int, addresses: tuple[str, ...]) -> None:
        async with self._changed:
            self._listing = Listing(version, addresses)
            self._changed.notify_all()

    async def watch(self, version: int, seconds: float) -> Listing:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._listing.version != version)
        return self._listing


class Service:
    """A service whose replicas are those that a test says."""

    def __init__(self, name: str) -> None:
        self.target = f"ray:{name}"
        self._name = directory_name(name)
        self._actor: Any = None

    def put(self, *addresses: str) -> None:
        """These are the replicas now."""
        change = next(_versions), tuple(sorted(addresses))
        if self._actor is None:
            directory: Any = ray.remote(_Directory)
            options = {"name": self._name, "namespace": NAMESPACE, "num_cpus": 0}
            self._actor = directory.options(**options).remote(*change)
        else:
            ray.get(self._actor.put.remote(*change), timeout=LIMIT)

    def kill_directory(self) -> None:
        """End it; the next `put` starts another."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


def who(client: CassClient) -> int:
    """Which replica answers; each has limits of its own."""
    return client.info().limits["images"]


def by_mask_batch(target: str, batch: dict[str, Any]) -> Any:
    """For a task of Ray's: the masks of a batch."""
    return MaskBatch(target, (12, 20), SPEC, image_size=SIZE, timeout=LIMIT)(batch)["mask"]


def answer_on_demand(connection: Any, given: CassClient, target: str) -> None:
    """For a process: say who answers, as often as asked, by two clients, whose masks are right."""
    made_here = CassClient(target, timeout=LIMIT)
    for seed in iter(connection.recv, None):
        try:
            assert_right([ask(given, seed), ask(made_here, seed)], [seed, seed])
            # By each twice, as calls go to all in turn.
            connection.send({who(client) for client in (given, made_here) * 2})
        except Exception as error:
            connection.send(repr(error))


@contextlib.contextmanager
def worker(method: str, client: CassClient) -> Iterator[Callable[[], Any]]:
    """A process that has been started by this method; a call says who answers it."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer_on_demand, args=(theirs, client, client.target))
    process.start()
    seeds = itertools.count()

    def answered_by() -> Any:
        ours.send(next(seeds))
        assert ours.poll(LIMIT)
        return ours.recv()

    try:
        yield answered_by
        ours.send(None)
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join(LIMIT)
        ours.close()
        theirs.close()


def check_worker(method: str, service: Service, replicas: Sequence[tuple[int, str]]) -> None:
    """Assert that a process started by this method, before the first call, follows changes."""
    (first, first_address), (second, second_address) = replicas
    service.put(first_address)
    with worker(method, CassClient(service.target, timeout=LIMIT)) as answered_by:
        assert answered_by() == {first}
        service.put(second_address)
        wait_until(lambda: answered_by() == {second})
        service.put(first_address, second_address)
        wait_until(lambda: answered_by() == {first, second})
