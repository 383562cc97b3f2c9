"""`make bench-fleet`: a simulated fleet of loaders and replicas, checked against a real server.

`python -m benchmarks.fleet plan --loaders 512 --think 0.8` runs the model with measured costs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common.measure import write
from benchmarks.common.processes import two_cores
from benchmarks.common.server import server_on
from benchmarks.common.tables import Out, Rounds, Seconds, show
from benchmarks.fleet.measure import KINDS, answer_bytes, checks, costs_of, measure
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


@app.command("measure")
def run(
    rounds: Rounds = 5,
    seconds: Seconds = 0.5,
    loaders: Annotated[int, typer.Option(min=64, help="Of the largest simulated fleet.")] = 4096,
    out: Out = None,
) -> None:
    """Measure a server, check the model against it, and simulate fleets."""
    keep_memory()
    ours, theirs = two_cores()
    with server_on(ours) as server:
        os.sched_setaffinity(0, {theirs})
        turns = measure(server, rounds, seconds)
    os.sched_setaffinity(0, {ours, theirs})
    kinds = [f"{stride}, {dtype}" for stride, dtype in KINDS]
    costs = {name: costs_of(*k, t) for name, k, t in zip(kinds, KINDS, turns, strict=True)}
    found = {name: checks(costs[name], taken) for name, taken in zip(kinds, turns, strict=True)}
    for kind, loads in found.items():
        title = f"{kind}: loaders × ms between calls, measured and by the model"
        show(title, {f"{one['loaders']} × {one['think'] * 1e3:.0f}": one for one in loads})
    thinking = {f"{think:g} s": Fleet(1, think) for think in THINKS}
    wires = {f"1 s, {bits} Gbit/s": Fleet(1, 1.0, bits=bits * 1e9) for bits in GBITS}
    most = {
        kind: {name: carried(one, fleet) for name, fleet in (thinking | wires).items()}
        for kind, one in costs.items()
    }
    show("Loaders that one replica is enough for, by time between calls", most)
    least = {
        f"{kind}, {number:,} loaders": [enough(one, Fleet(number, think)) for think in THINKS]
        for kind, one in costs.items()
        for number in FLEETS
        if number <= loaders
    }
    replicas = {
        name: {think: one.replicas for think, one in zip(thinking, figures, strict=True)}
        for name, figures in least.items()
    }
    show("Replicas that are enough, by time between calls", {"": replicas})
    if out is not None:
        results = {
            "costs": {kind: asdict(one) for kind, one in costs.items()},
            "checks": found,
            "carried": most,
            "replicas": {name: [asdict(one) for one in figures] for name, figures in least.items()},
        }
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
    measured = json.loads(results.read_text(encoding="utf-8"))
    costs = costs_from(measured, f"stride {stride}", dtype)
    fleet = Fleet(loaders, think, replicas=max(replicas, 1), bits=gbits * 1e9)
    figures = at_work(costs, fleet) if replicas else enough(costs, fleet)
    show(f"{loaders:,} loaders, {think:g} s between their batches", asdict(figures))


if __name__ == "__main__":
    app()
