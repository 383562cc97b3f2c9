"""Waiting for a condition, with a hard limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def wait_until(
    condition: Callable[[], Any],
    explain: Callable[[], Any] = lambda: "it does not come true",
    limit: float = 90.0,
    pause: float = 0.05,
) -> None:
    """Poll until the condition is true.

    Args:
        condition: what to wait for; what it raises ends the wait.
        explain: called for the message if it does not come true.
        limit: seconds.
        pause: seconds between two polls.
    """
    poll = threading.Event()
    for _ in range(int(limit / pause)):
        if condition():
            return
        poll.wait(pause)
    raise AssertionError(explain())
