"""`make bench-overload`: the server on one core, all callers and health checks on another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.common.measure import write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.load import flood, idle, largest, refusal

PARTS = ("flood", "refusal", "largest", "idle")


def main(
    seconds: Annotated[float, typer.Option(help="Length of each load.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each load is taken.")] = 3,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
) -> None:
    """The server's settings are the defaults; CASS_… variables change them."""
    console = Console(width=200, highlight=False)
    ours, theirs = two_cores()
    results: dict[str, Any] = {}
    with on_core(theirs):
        for part in (only,) if only else PARTS:
            if part == "flood":
                results[part] = flood.measure(ours, rounds, seconds)
                console.print(flood.table(results[part]))
            elif part == "refusal":
                results[part] = refusal.measure(ours, rounds, seconds)
                console.print(refusal.line(results[part]))
            elif part == "largest":
                results[part] = largest.measure(ours, seconds)
                console.print(largest.table(results[part]))
            elif part == "idle":
                results[part] = idle.measure(ours, rounds, seconds)
                console.print(idle.table(results[part]))
            else:
                raise typer.BadParameter(f"no such part: {part}")
    if out is not None:
        arguments = f"--seconds {seconds:g} --rounds {rounds}"
        settings = {name: value for name, value in os.environ.items() if name.startswith("CASS_")}
        command = f"make bench-overload ARGS='{arguments}'"
        write(out, command, {"settings": settings, **results})


if __name__ == "__main__":
    typer.run(main)
