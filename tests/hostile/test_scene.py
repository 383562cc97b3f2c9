"""What the tests of attacks stand on sees an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile.support.scene import GoodCallers, under_attack
from tests.hostile.support.table import lines
from tests.support.servers import serving


def test_no_attack(record_property: Callable[[str, Any], None]) -> None:
    with under_attack(record_property, "none") as scene:
        scene.good.wait_more(100)
        row = scene.row()
        assert row["answers"] >= 100
        assert 0 < row["p99_ms"] < 30_000
        assert row["memory_mib"] > 10


def test_a_killed_server_fails_the_callers() -> None:
    with serving() as server:
        good = GoodCallers(server.address, 1)
        try:
            good.wait_more(5)
            server.kill()
            with pytest.raises(AssertionError, match="Unavailable"):
                good.wait_more()
        finally:
            good.stop()


def test_the_table_tells_which_attack_was_withstood() -> None:
    row = {"attack": "calls without messages", "answers": 7, "p99_ms": 1.25, "memory_mib": 210.4}
    other = {"attack": "resets", "answers": 0, "p99_ms": None, "memory_mib": 3.0}
    assert lines([(True, [("other", 1), ("hostile", row)]), (False, [("hostile", other)])]) == [
        "attack                  answers  p99 ms  memory MiB  verdict",
        "calls without messages        7     1.2         210  holds",
        "resets                        0       -           3  DOES NOT HOLD",
    ]
    assert lines([(True, [])]) == []
