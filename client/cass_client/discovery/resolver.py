"""Targets ``ray:NAME``: the replicas of a service on Ray, by the way that this process has.

One that is connected to Ray follows the service's directory (`watcher`). One that was started by
such a process reads what its parent keeps (`endpoint_file`).
"""

from __future__ import annotations

from cass.discovery import NAMESPACE, directory_name
from cass_client.discovery.endpoint_file import Addresses, ListFile
from cass_client.discovery.watcher import Watcher, is_connected, watch
from cass_client.errors import NoReplicas, Unavailable


class Replicas:
    """The replicas of a service, for one process."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._watcher: Watcher | None = None
        self._file = ListFile(service)

    def addresses(self) -> Addresses:
        """``HOST:PORT`` of each, one at least.

        Raises:
            NoReplicas: there is none, or it is not known yet.
            Unavailable: this process has no way to know.
        """
        known = self.known()
        if known:
            return known
        name = self._service
        if not is_connected() and not self._file.exists:
            raise Unavailable(
                f"ray:{name}: this process is not connected to Ray, nor was it started by one that "
                "was and had made such a client: call ray.init(...) first, or give the addresses, "
                "as in HOST:PORT,HOST:PORT"
            )
        if known is None:
            raise NoReplicas(
                f"ray:{name}: the directory of {name!r} on Ray does not answer: see whether the "
                f"cluster has it, {directory_name(name)!r} of the namespace {NAMESPACE!r}",
                False,
            )
        raise NoReplicas(
            f"ray:{name}: no replica of {name!r} is running on Ray: start one by "
            f"cass-server ray --name {name}"
        )

    def differ_from(self, addresses: Addresses) -> bool:
        """Whether the known replicas are others than these."""
        known = self.known()
        return bool(known) and known != addresses

    def look(self) -> None:
        """Reads the file now: a replica could not be reached. A watched list is up to date."""
        if self._watcher is None:
            self._file.look()

    def known(self) -> Addresses | None:
        """The addresses, perhaps none; None if that is not known yet."""
        if self._watcher is None:
            self._watcher = watch(self._service)
        return self._file.read() if self._watcher is None else self._watcher.addresses
