"""Which replicas take calls, as far as they have told of late."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cass.discovery import Listing

BEAT_SECONDS = 1.0
"""How often a replica tells that it is there."""
ROUND_SECONDS = 0.5
"""How often `Roster.end_round` is to be called."""

_SILENT_ROUNDS = 10
_SETTLING_ROUNDS = 10


@dataclass(slots=True)
class _Entry:
    address: str
    silent_rounds: int = 0


class Roster:
    """Keeps the list of a directory.

    A replica is on it until it leaves, or has been silent for 5 s. That is counted in rounds, not
    by the clock: a directory that was held up itself has heard of nobody. A new roster, which may
    be that of a directory that died, has no list before all replicas have had as long to report.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._unsettled_rounds = _SETTLING_ROUNDS
        # After a restart it must be none of those before, which nobody has written down.
        self._version = random.SystemRandom().randrange(1, 1 << 62)
        self._addresses: tuple[str, ...] = ()

    @property
    def listing(self) -> Listing | None:
        """The list; None as long as replicas may be missing from it."""
        if self._unsettled_rounds > 0:
            return None
        return Listing(self._version, self._addresses)

    def beat(self, replica: str, address: str) -> None:
        """A replica takes calls at this address."""
        self._entries[replica] = _Entry(address)
        self._renew()

    def leave(self, replica: str) -> None:
        """A replica takes no new calls."""
        self._entries.pop(replica, None)
        self._renew()

    def end_round(self) -> None:
        """So much time has passed again."""
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
