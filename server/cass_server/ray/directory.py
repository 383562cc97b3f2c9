"""The actor that lists a service's replicas, and publishes each change to its watchers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray

from cass.discovery import NAMESPACE, Listing, directory_name
from cass_server.ray.registry import ROUND_SECONDS, Roster

# Each client waits in a call of its own.
_MOST_CALLS = 10_000
_HEAD_NODE = "node:__internal_head__"


class Directory:
    """The methods of the actor; `cass.discovery` has what clients may rely on."""

    def __init__(self) -> None:
        self._roster = Roster()
        self._changed = asyncio.Event()
        self._published: Listing | None = None
        self._rounds: asyncio.Task[None] | None = None

    async def watch(self, version: int, seconds: float) -> Listing:
        """Returns the list once it has another version, or after this many seconds.

        A new directory takes longer: it first waits for the reports of all replicas.
        """
        self._begin()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            listing, changed = self._roster.listing, self._changed
            left = end - loop.time()
            if listing is not None and (listing.version != version or left <= 0):
                return listing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if listing is None else left):
                    await changed.wait()

    async def metrics(self) -> list[str]:
        """See `Roster.metrics`."""
        return self._roster.metrics

    async def heartbeat(self, replica: str, address: str, metrics: str) -> None:
        """See `Roster.heartbeat`."""
        self._begin()
        self._roster.heartbeat(replica, address, metrics)
        self._publish()

    async def remove(self, replica: str) -> None:
        """See `Roster.remove`."""
        self._roster.remove(replica)
        self._publish()

    def _begin(self) -> None:
        # Not in `__init__`, which Ray runs outside of the event loop.
        if self._rounds is None:
            self._rounds = asyncio.get_running_loop().create_task(self._end_rounds())

    async def _end_rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            self._roster.end_round()
            self._publish()

    def _publish(self) -> None:
        if self._roster.listing != self._published:
            self._published = self._roster.listing
            self._changed.set()
            self._changed = asyncio.Event()


def open_directory(service: str) -> Any:
    """A handle of a service's directory, which is started if there is none.

    It outlives the process that started it, and is restarted if its process dies. It runs on the
    head node, with which the cluster would end anyway.
    """
    options = {
        "name": directory_name(service),
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "max_restarts": -1,
        "max_concurrency": _MOST_CALLS,
        "num_cpus": 0,
        "resources": {_HEAD_NODE: 0.001},
    }
    return ray.remote(Directory).options(**options).remote()


def find_directory(service: str) -> Any:
    """A handle of a service's directory; None if there is none."""
    try:
        return ray.get_actor(directory_name(service), namespace=NAMESPACE)
    except ValueError:
        return None


def close_directory(service: str) -> bool:
    """Ends a service's directory for good; returns whether there was one."""
    if (actor := find_directory(service)) is None:
        return False
    ray.kill(actor)
    return True
