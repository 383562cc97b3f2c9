"""`make bench-overload`: the server on one core, all callers and health checks on another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.measure import write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.common.tables import Out, Rounds, Seconds
from benchmarks.load import flood, idle, largest, refusal

PARTS: dict[str, tuple[Callable[[int, int, float], dict[str, Any]], Callable[[Any], Table]]] = {
    "flood": (flood.measure, flood.flood_table),
    "refusal": (refusal.measure, refusal.refusal_table),
    "largest": (largest.measure, largest.largest_table),
    "idle": (idle.measure, idle.idle_table),
}


def main(
    seconds: Seconds = 4.0,
    rounds: Rounds = 3,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}.")] = "",
    out: Out = None,
) -> None:
    """The server's settings are the defaults; CASS_… variables change them."""
    if only and only not in PARTS:
        raise typer.BadParameter(f"no such part: {only}")
    console = Console(width=200, highlight=False)
    ours, theirs = two_cores()
    results: dict[str, Any] = {}
    with on_core(theirs):
        for part in (only,) if only else PARTS:
            measure, table = PARTS[part]
            results[part] = measure(ours, rounds, seconds)
            console.print(table(results[part]))
    if out is not None:
        arguments = f"--seconds {seconds:g} --rounds {rounds}"
        settings = {name: value for name, value in os.environ.items() if name.startswith("CASS_")}
        command = f"make bench-overload ARGS='{arguments}'"
        write(out, command, {"settings": settings, **results})


if __name__ == "__main__":
    typer.run(main)
