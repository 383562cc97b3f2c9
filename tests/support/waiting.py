"""Waiting for a condition, with a hard limit."""

from __future__ import annotations

import time
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
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(explain())
        time.sleep(pause)
