"""Command-line options and the table that all benchmarks print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Out = Annotated[Path | None, typer.Option(help="Also write the results as JSON.")]
Rounds = Annotated[int, typer.Option(min=1, help="Turns of each measurement.")]
Seconds = Annotated[float, typer.Option(help="Length of a turn.")]

CONSOLE = Console(width=100, highlight=False, markup=False)


def show(title: str, cases: Mapping[str, Any]) -> None:
    """Print figures of several cases, a column per case, or a row per case if that is narrower.

    Figures that are grouped are named ``group, figure``; counts by name share a cell, and so do a
    ratio, its bound and whether it holds. Figures that belong to no case are those of one.
    """
    if not all(isinstance(figures, Mapping) for figures in cases.values()):
        cases = {"": cases}
    flat = {case: dict(_flat(figures)) for case, figures in cases.items()}
    names = dict.fromkeys(
        name for figures in flat.values() for name, cell in figures.items() if cell
    )
    rows = [[_heading(name), *(flat[case].get(name, "") for case in flat)] for name in names]
    rows.insert(0, ["", *flat])
    made = _table(rows)
    if _width(made) > CONSOLE.width:
        made = min(made, _table(list(zip(*rows, strict=True))), key=_width)
    CONSOLE.print(f"\n{title}")
    CONSOLE.print(made)


def number(value: float) -> str:
    """About three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _heading(name: str) -> str:
    return name.replace("_", " ").replace("milliseconds", "ms").replace("microseconds", "µs")


def _table(rows: Sequence[Sequence[str | Text]]) -> Table:
    made = Table()
    for place, heading in enumerate(rows[0]):
        made.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows[1:]:
        made.add_row(*row)
    return made


def _width(table: Table) -> int:
    """Columns that it needs if no cell is wrapped."""
    return CONSOLE.measure(table, options=CONSOLE.options.update(max_width=10_000)).maximum


def _flat(figures: Mapping[Any, Any], group: str = "") -> Iterator[tuple[str, str | Text]]:
    for name, value in figures.items():
        if name in ("bound", "holds") and "bound" in figures:
            continue  # beside their ratio
        if name == "ratio" and figures.get("bound") is not None:
            yield f"{group}{name}", _verdict(**figures)
        elif isinstance(value, Mapping) and not all(isinstance(n, int) for n in value.values()):
            yield from _flat(value, f"{group}{name}, ")
        else:
            yield f"{group}{name}", _text(value)


def _verdict(ratio: float, bound: float, holds: bool, **_: Any) -> Text:
    sign = "≥" if holds == (ratio >= bound) else "≤"
    return Text.assemble(f"{number(ratio)} ({sign} {number(bound)} ", _text(holds), ")")


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
