"""Which replicas take calls, by their heartbeats."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cass.discovery import Listing

HEARTBEAT_SECONDS = 1.0
"""Time between the heartbeats of a replica."""
ROUND_SECONDS = 0.5
"""Time between the calls of `Roster.end_round`."""

_SILENT_ROUNDS = 10
_SETTLING_ROUNDS = 10


@dataclass(slots=True)
class _Entry:
    address: str
    metrics: str
    silent_rounds: int = 0


class Roster:
    """Keeps the list of a directory.

    A replica is listed until it is removed, or has been silent for 5 s. Silence is counted in
    rounds, not by the clock: a directory that was itself held up received no heartbeats. A new
    roster, which may replace one that died, has no list until all replicas had 5 s to report.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._unsettled_rounds = _SETTLING_ROUNDS
        # After a restart it must differ from all earlier ones, which are not stored.
        self._version = random.SystemRandom().randrange(1, 1 << 62)
        self._addresses: tuple[str, ...] = ()

    @property
    def listing(self) -> Listing | None:
        """The list; None as long as replicas may be missing from it."""
        if self._unsettled_rounds > 0:
            return None
        return Listing(self._version, self._addresses)

    @property
    def metrics(self) -> list[str]:
        """Where replicas serve metrics, as far as they do."""
        return sorted(entry.metrics for entry in self._entries.values() if entry.metrics)

    def heartbeat(self, replica: str, address: str, metrics: str = "") -> None:
        """A replica takes calls at this address, and serves metrics at the other, if any."""
        self._entries[replica] = _Entry(address, metrics)
        self._renew()

    def remove(self, replica: str) -> None:
        """A replica takes no new calls."""
        self._entries.pop(replica, None)
        self._renew()

    def end_round(self) -> None:
        """Counts one round of silence for every replica."""
        self._unsettled_rounds -= 1
        for replica, entry in list(self._entries.items()):
            entry.silent_rounds += 1
            if entry.silent_rounds > _SILENT_ROUNDS:
                del self._entries[replica]
        self._renew()

    def _renew(self) -> None:
        addresses = tuple(sorted({entry.address for entry in self._entries.values()}))
        if addresses != self._addresses:
            self._addresses = addresses
            self._version += 1
