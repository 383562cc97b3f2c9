"""What tests of the service's calls share."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Generic, TypeVar

from cass_server.observability.metrics import Metrics
from tests.server.support.observed import exposed

T = TypeVar("T")


class Writer(Generic[T]):
    """Messages of a stream that the test writes when it likes."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._messages: queue.Queue[T | None] = queue.Queue()

    def write(self, message: T) -> None:
        """One more."""
        self._messages.put(message)

    def close(self) -> None:
        """That was the last one."""
        self._messages.put(None)

    def __iter__(self) -> Iterator[T]:
        return iter(self._messages.get, None)  # type: ignore[arg-type]


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What is exposed and is not 0, by name and the values of the labels, but for times."""
    return {
        (name, *(value for _, value in labels)): value
        for (name, labels), value in exposed([metrics]).items()
        if value and "_seconds" not in name and name not in {"cass_build_info", "cass_workers"}
    }


def requests_counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Requests by method and code."""
    return {
        (key[2], key[1]): value
        for key, value in counted(metrics).items()
        if key[0] == "cass_requests_total"
    }


def in_flight(metrics: Metrics) -> float:
    """Requests taken and not yet answered."""
    return counted(metrics).get(("cass_requests_in_flight",), 0.0)
