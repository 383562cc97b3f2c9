"""Command-line options and the table that all benchmarks print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Out = Annotated[Path | None, typer.Option(help="Also write the results as JSON.")]
Rounds = Annotated[int, typer.Option(min=1, help="Turns of each measurement.")]
Seconds = Annotated[float, typer.Option(help="Length of a turn.")]

CONSOLE = Console(width=140, highlight=False, markup=False)


def show(title: str, cases: Mapping[str, Any]) -> None:
    """Print figures of several cases, a column per case and a row per figure.

    Figures that are grouped are named ``group, figure``; counts by name share a cell. Figures that
    belong to no case are those of one.
    """
    if not all(isinstance(figures, Mapping) for figures in cases.values()):
        cases = {"": cases}
    flat = {case: dict(_flat(figures)) for case, figures in cases.items()}
    made = Table("")
    for case in flat:
        made.add_column(case, justify="right")
    for name in dict.fromkeys(name for figures in flat.values() for name in figures):
        cells = (figures.get(name, "") for figures in flat.values())
        made.add_row(name.replace("_", " "), *cells)
    CONSOLE.print(f"\n{title}")
    CONSOLE.print(made)


def number(value: float) -> str:
    """About three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _flat(figures: Mapping[Any, Any], group: str = "") -> Iterator[tuple[str, str | Text]]:
    for name, value in figures.items():
        if isinstance(value, Mapping) and not all(isinstance(n, int) for n in value.values()):
            yield from _flat(value, f"{group}{name}, ")
        else:
            yield f"{group}{name}", _text(value)


def _text(value: Any) -> str | Text:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    if isinstance(value, bool):
        return Text("✓", "green") if value else Text("✗", "red")
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
