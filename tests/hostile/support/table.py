"""The table of attacks that ends a run of tests."""

from __future__ import annotations

from typing import Any

ROW = "hostile"
"""The property of a test's report that has its row of the table."""


def lines(reports: list[tuple[bool, list[tuple[str, Any]]]]) -> list[str]:
    """The lines of the table; none without attacks.

    Args:
        reports: of each test whether it passed, and its properties.
    """
    rows = [
        (value, held) for held, properties in reports for key, value in properties if key == ROW
    ]
    if not rows:
        return []
    width = max(len(row["attack"]) for row, _ in rows)
    head = f"{'attack':{width}}  answers  p99 ms  memory MiB  verdict"
    return [
        head,
        *(
            f"{row['attack']:{width}}  {row['answers']:7}  {_number(row['p99_ms']):>6}"
            f"  {row['memory_mib']:10.0f}  {'holds' if held else 'DOES NOT HOLD'}"
            for row, held in sorted(rows, key=lambda found: str(found[0]["attack"]))
        ),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
