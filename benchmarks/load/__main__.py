"""`make bench-overload`: the server on one core, all callers and health checks on another."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from benchmarks.common.measure import write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.common.tables import Out, Rounds, Seconds, show
from benchmarks.load import flood, idle, largest, refusal

PARTS = {"flood": flood, "refusal": refusal, "largest": largest, "idle": idle}


def main(
    seconds: Seconds = 4.0,
    rounds: Rounds = 3,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}.")] = "",
    out: Out = None,
) -> None:
    """The server's settings are the defaults; CASS_… variables change them."""
    if only and only not in PARTS:
        raise typer.BadParameter(f"no such part: {only}")
    ours, theirs = two_cores()
    results: dict[str, Any] = {}
    with on_core(theirs):
        for name in (only,) if only else PARTS:
            part = PARTS[name]
            results[name] = part.measure(ours, rounds, seconds)
            show(part.TITLE, results[name])
    if out is not None:
        arguments = f"--seconds {seconds:g} --rounds {rounds}"
        settings = {name: value for name, value in os.environ.items() if name.startswith("CASS_")}
        command = f"make bench-overload ARGS='{arguments}'"
        write(out, command, {"settings": settings, **results})


if __name__ == "__main__":
    typer.run(main)
