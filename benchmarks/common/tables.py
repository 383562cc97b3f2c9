"""Tables and command-line options that the benchmarks share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

Out = Annotated[Path | None, typer.Option(help="Also write the results as JSON.")]
Rounds = Annotated[int, typer.Option(min=1, help="Turns of each measurement.")]
Seconds = Annotated[float, typer.Option(help="Length of a turn.")]


def table(
    title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], caption: str = ""
) -> Table:
    """A table whose first column is text, the others numbers."""
    made = Table(title=title, caption=caption or None, title_justify="left", min_width=60)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def number(value: float) -> str:
    """About three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def judged(text: str, is_kept: bool) -> str:
    """Green where a bound is kept, else red."""
    return f"[green]{text} ✓[/]" if is_kept else f"[red]{text} ✗[/]"


def counted(counts: dict[str, int]) -> str:
    """Names with their counts."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
