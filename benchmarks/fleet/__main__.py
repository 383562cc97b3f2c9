"""`make bench-fleet`: a simulated fleet of loaders and replicas, checked against a real server.

`python -m benchmarks.fleet plan --loaders 512 --think 0.8` asks the model with what was measured.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from rich.console import Console

from benchmarks.common.measure import write
from benchmarks.common.processes import two_cores
from benchmarks.common.watched_server import watched_server
from benchmarks.fleet.costs import Service
from benchmarks.fleet.local import time_calls, workers
from benchmarks.fleet.loss import HIT_SECONDS, LOADERS, lose, summary
from benchmarks.fleet.measure import (
    ALONE,
    CHECKED,
    CROWDS,
    KINDS,
    Kind,
    Load,
    Loaders,
    Turn,
    service_of,
    usual_speed,
)
from benchmarks.fleet.model import Fleet, simulate
from benchmarks.fleet.plan import at_work, enough, hosts_for, plans, service_from
from benchmarks.fleet.tables import markdown
from cass.malloc import keep_memory

RESULTS = Path(__file__).parents[1] / "results" / "fleet.json"
_SIMULATED_SECONDS, _WARM_SECONDS = 5.0, 0.5
# Of the measured service times, as many are kept as a file for reading can have.
_SPREAD = 2000
_LOSSES = 5

app = typer.Typer(add_completion=False, help=__doc__)


def as_measured(load: Load, think: float) -> Fleet:
    """A load as `Loaders` makes it: no wire, one core for all loaders, and uvloop's clock."""
    return Fleet(
        load.loaders,
        think,
        tick=1e-3,
        host_shares_core=True,
        server_bits=float("inf"),
        host_bits=float("inf"),
    )


def check(service: Service, load: Load, turns: Sequence[Turn], usual: float) -> dict[str, Any]:
    """Medians of what was measured of a load, and of what the model foretells for each turn.

    A turn is simulated on a machine as fast as it was then. Seconds, and calls a second.
    """
    real = [_told(np.array(turn.latencies), turn.rate) for turn in turns]
    model = []
    for seed, turn in enumerate(turns):
        fleet = as_measured(load, turn.think if load.think else 0.0)
        outcome = simulate(service.times(turn.speed / usual), fleet, _SIMULATED_SECONDS, seed)
        taken = np.array([took for begun, took in outcome.answers if begun > _WARM_SECONDS])
        model.append(_told(taken, len(taken) / (_SIMULATED_SECONDS - _WARM_SECONDS)))
    return {
        "loaders": load.loaders,
        "think": median(turn.think for turn in turns) if load.think else 0.0,
        "learned": load not in CHECKED,
        "turns": len(turns),
        "p99_halves": [median(one["p99"] for one in real[half::2]) for half in (0, 1)]
        if len(real) > 1
        else [real[0]["p99"]] * 2,
        "server_used": median(turn.server * turn.rate for turn in turns),
        "real": {key: median(one[key] for one in real) for key in real[0]},
        "model": {key: median(one[key] for one in model) for key in model[0]},
    }


def _told(taken: np.ndarray[Any, np.dtype[np.float64]], rate: float) -> dict[str, float]:
    p50, p99 = np.percentile(taken, (50, 99))
    return {"rate": rate, "mean": float(taken.mean()), "p50": float(p50), "p99": float(p99)}


def checked(turns: Mapping[Kind, Mapping[Load, Sequence[Turn]]]) -> dict[str, Any]:
    """Services and checks of all kinds, as they are kept."""
    services, checks = {}, {}
    for kind, taken in turns.items():
        service, usual = service_of(kind, taken), usual_speed(taken)
        checks[str(kind)] = [
            check(service, load, taken[load], usual) for load in (*CROWDS, *CHECKED)
        ]
        services[str(kind)] = {
            **asdict(service),
            **{
                name: [getattr(service, name).points, getattr(service, name).values]
                for name in ("rested", "crowded", "client")
            },
            "spread": [round(time, 3) for time in service.spread[:_SPREAD]],
        }
    return {"services": services, "checks": checks}


def in_turn() -> list[Load]:
    """All loads, so that those learned from and those foretold are neighbours."""
    learned = [*ALONE, *CROWDS]
    return [load for pair in zip_longest(learned, CHECKED) for load in pair if load is not None]


async def measure_turns(
    address: str, pid: int, rounds: int, seconds: float, console: Console
) -> dict[Kind, dict[Load, list[Turn]]]:
    """Turns of all loads for all kinds."""
    turns: dict[Kind, dict[Load, list[Turn]]] = {
        kind: {load: [] for load in in_turn()} for kind in KINDS
    }
    loaders = Loaders(address, pid, max(load.loaders for load in in_turn()))
    for round_ in range(rounds):
        for kind in KINDS:
            data = kind.request()
            await loaders.connect(data)
            for load, turn in (await loaders.turns(in_turn(), data, seconds)).items():
                turns[kind][load].append(turn)
        console.print(f"round {round_ + 1} of {rounds}")
    await loaders.close()
    return turns


def compared_losses(
    real: Sequence[dict[str, Any]], kind: Kind, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Medians of replicas lost really, and as often as the model has it."""
    service = service_from(results, kind)
    # Two servers share a core: each takes twice as long as with one of its own.
    service = replace(service, rested=service.rested.times(2.0), crowded=service.crowded.times(2.0))
    fleet = replace(as_measured(Load(LOADERS, 0.0), 0.0), replicas=2, lost_at=1.0)
    model = []
    for seed in range(len(real)):
        outcome = simulate(service, fleet, 2.5, seed)
        hit = [took for _, took in outcome.answers if took > HIT_SECONDS]
        model.append(summary(hit, outcome.failed))
    return {
        name: {key: median(one[key] for one in taken) for key in taken[0]}
        for name, taken in (("real", real), ("model", model))
    }


@app.command()
def measure(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each load.")] = 12,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 0.55,
    loaders: Annotated[int, typer.Option(min=64, help="Of the largest simulated fleet.")] = 4096,
    out: Annotated[Path | None, typer.Option(help="Also write all as JSON.")] = None,
) -> None:
    """Measure a server, check the model, and ask it about large fleets."""
    console = Console(width=150, highlight=False)
    keep_memory()
    ours, theirs = two_cores()
    with watched_server("--device", "cpu", core=ours) as server:
        os.sched_setaffinity(0, {theirs})
        pid = server.pids()[0]
        turns = uvloop.run(measure_turns(server.address, pid, rounds, seconds, console))
        results = checked(turns)
        results["calls"] = time_calls(server.address, KINDS, rounds)
        results["workers"] = workers(server.address, 3)
    kind = KINDS[1]
    lost = [asyncio.run(lose(kind, ours)) for _ in range(_LOSSES)]
    results["loss"] = compared_losses(lost, kind, results)
    results["plans"] = plans(results, loaders)
    console.print(markdown(results), markup=False, soft_wrap=True)
    if out is not None:
        write(out, f"make bench-fleet ROUNDS={rounds} LOADERS={loaders}", results)


@app.command()
def plan(
    loaders: Annotated[int, typer.Option(min=1, help="Workers that ask for masks.")],
    think: Annotated[float, typer.Option(min=0.0, help="Seconds between their batches.")],
    stride: Annotated[int, typer.Option(help="32 or 8: of the masks that were measured.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, float16 or uint8.")] = "float32",
    replicas: Annotated[int, typer.Option(min=0, help="0 for as many as it takes.")] = 0,
    gbits: Annotated[float, typer.Option(help="Of each replica's wire.")] = 25.0,
    results: Annotated[Path, typer.Option(help="What `measure` has written.")] = RESULTS,
) -> None:
    """How many replicas so many loaders need, or what so many replicas are to them."""
    service = service_from(json.loads(results.read_text()), Kind(f"stride {stride}", dtype))
    fleet = Fleet(
        loaders, think, replicas=max(replicas, 1), hosts=hosts_for(loaders), server_bits=gbits * 1e9
    )
    fleet, figures = (fleet, at_work(service, fleet)) if replicas else enough(service, fleet)
    Console(highlight=False).print(
        f"replicas: {fleet.replicas}; {figures.rate:,.0f} requests/s, p50 {figures.p50 * 1e3:.1f},"
        f" p99 {figures.p99 * 1e3:.1f} ms, cores {figures.used:.0%} used,"
        f" wires {figures.wire_used:.0%}, {figures.refused:.1%} refused at first,"
        f" {figures.failed} failed",
        soft_wrap=True,
    )


@app.command()
def tables(
    results: Annotated[Path, typer.Option(help="What `measure` has written.")] = RESULTS,
) -> None:
    """The tables of docs/scaling.md, as Markdown."""
    typer.echo(markdown(json.loads(results.read_text())))


if __name__ == "__main__":
    app()
