"""What a server process gets from the one that started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """What a process gets from the one that started it.

    Attributes:
        port: port to bind to; 0 for a free one.
        shared: whether other processes bind to it too.
        serving: called with the address once requests are answered.
        wait_lost: returns when the process is to drain beside a signal, if ever.
    """

    port: int
    shared: bool
    serving: Callable[[str], None]
    wait_lost: Callable[[], None] | None = None
