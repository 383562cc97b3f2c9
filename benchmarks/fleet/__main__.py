"""`make bench-fleet`: a simulated fleet of loaders and replicas, checked against a real server.

`python -m benchmarks.fleet plan --loaders 512 --think 0.8` runs the model with measured costs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.common.measure import write
from benchmarks.common.processes import two_cores
from benchmarks.common.tables import Out, Rounds, Seconds, table
from benchmarks.common.watched_server import watched_server
from benchmarks.fleet.measure import KINDS, answer_bytes, checks, costs_of, kind_name, measure
from benchmarks.fleet.model import Costs, Fleet
from benchmarks.fleet.plan import at_work, carried, enough
from cass.malloc import keep_memory

RESULTS = Path(__file__).parents[1] / "results" / "fleet.json"
FLEETS = (64, 512, 4096)
# Seconds between batches: of loaders that decode and augment 16 images, and of light ones.
THINKS = (2.0, 0.5, 0.1)
GBITS = (1, 10, 25)

app = typer.Typer(add_completion=False, help=__doc__)


def costs_from(results: Mapping[str, Any], stride: str, dtype: str) -> Costs:
    """Measured costs; a dtype that was not measured has float32's, with its own bytes.

    Raises:
        KeyError: nothing of that stride was measured.
    """
    kept = results["costs"].get(f"{stride}, {dtype}") or results["costs"][f"{stride}, float32"]
    return replace(Costs(**kept), answer_bytes=answer_bytes(stride, dtype))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def check_rows(results: Mapping[str, Any]) -> Iterable[Iterable[object]]:
    """Each load as measured and as simulated."""
    for kind, found in results["checks"].items():
        for check in found:
            yield (
                f"{kind}, {check['loaders']} × {check['think'] * 1e3:.0f} ms",
                f"{check['server_used']:.0%}",
                f"{check['rate']:,.0f}",
                f"{check['model_rate'] / check['rate']:.2f}",
                _ms(check["p99"]),
                f"{check['model_p99'] / check['p99']:.2f}",
            )


@app.command("measure")
def run(
    rounds: Rounds = 5,
    seconds: Seconds = 0.5,
    loaders: Annotated[int, typer.Option(min=64, help="Of the largest simulated fleet.")] = 4096,
    out: Out = None,
) -> None:
    """Measure a server, check the model against it, and simulate fleets."""
    console = Console(width=110, highlight=False)
    keep_memory()
    ours, theirs = two_cores()
    with watched_server("--device", "cpu", core=ours) as server:
        os.sched_setaffinity(0, {theirs})
        turns = measure(server, rounds, seconds)
    os.sched_setaffinity(0, {ours, theirs})
    costs = {kind_name(kind): costs_of(kind, turns[kind_name(kind)]) for kind in KINDS}
    results: dict[str, Any] = {
        "costs": {kind: asdict(one) for kind, one in costs.items()},
        "checks": {kind: checks(one, turns[kind]) for kind, one in costs.items()},
    }
    columns = [
        "loaders × pause",
        "server used",
        "requests/s",
        "model / it",
        "p99, ms",
        "model / it",
    ]
    console.print(table("Measured, and by the model", columns, check_rows(results)))
    results["carried"] = {
        kind: {
            **{f"{think:g} s": carried(one, Fleet(1, think)) for think in THINKS},
            **{
                f"1 s, {bits} Gbit/s": carried(one, Fleet(1, 1.0, bits=bits * 1e9))
                for bits in GBITS
            },
        }
        for kind, one in costs.items()
    }
    columns = ["think", *next(iter(results["carried"].values()))]
    rows = ([kind, *map("{:,}".format, row.values())] for kind, row in results["carried"].items())
    console.print(table("Loaders that one replica is enough for", columns, rows))
    results["replicas"] = {
        f"{kind}, {number:,} loaders": [asdict(enough(one, Fleet(number, t))) for t in THINKS]
        for kind, one in costs.items()
        for number in FLEETS
        if number <= loaders
    }
    rows = (
        [name, *(f"{one['replicas']} ({_ms(one['p99'])})" for one in figures)]
        for name, figures in results["replicas"].items()
    )
    columns = ["think", *(f"{think:g} s" for think in THINKS)]
    console.print(table("Replicas that are enough (p99, ms)", columns, rows))
    if out is not None:
        write(out, f"make bench-fleet ROUNDS={rounds} LOADERS={loaders}", results)


@app.command()
def plan(
    loaders: Annotated[int, typer.Option(min=1, help="Workers that request masks.")],
    think: Annotated[float, typer.Option(min=0.0, help="Seconds between their batches.")],
    stride: Annotated[int, typer.Option(help="32 or 8: of the measured masks.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, float16 or uint8.")] = "float32",
    replicas: Annotated[int, typer.Option(min=0, help="0 for as many as it takes.")] = 0,
    gbits: Annotated[float, typer.Option(help="Of each replica's wire.")] = 25.0,
    results: Annotated[Path, typer.Option(help="What `measure --out` has written.")] = RESULTS,
) -> None:
    """How many replicas a number of loaders needs, or what a number of replicas gives them."""
    costs = costs_from(json.loads(results.read_text()), f"stride {stride}", dtype)
    fleet = Fleet(loaders, think, replicas=max(replicas, 1), bits=gbits * 1e9)
    figures = at_work(costs, fleet) if replicas else enough(costs, fleet)
    typer.echo(
        f"replicas: {figures.replicas}; {figures.rate:,.0f} requests/s, p50 {_ms(figures.p50)},"
        f" p99 {_ms(figures.p99)} ms, cores {figures.used:.0%} used, wires"
        f" {figures.wire_used:.0%}, {figures.refused:.1%} refused at first, {figures.failed} failed"
    )


if __name__ == "__main__":
    app()
