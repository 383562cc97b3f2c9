"""`cass ablate`: what each improvement is worth on a user's data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cass_cli.options import require_known, takes
from cass_core.errors import InvalidRequest
from cass_lab.commands.options import TrainingOptions, run_all


class Measure(StrEnum):
    """What to measure."""

    recall = "recall"
    ap = "ap"


@takes("options", TrainingOptions)
def ablate(
    options: TrainingOptions,
    measures: Annotated[
        str,
        typer.Option(
            help="recall (a predictor alone), ap (a pruned detector; costs twice as much), or both "
            "as in recall,ap."
        ),
    ] = "recall",
    variant: Annotated[
        list[str] | None,
        typer.Option(help="A variant to compare with the baseline; by default all."),
    ] = None,
) -> None:
    """Measure what each improvement of target and loss is worth on your own data.

    A small patch-importance predictor is trained once for each variant and seed. The results are
    in DIR/runs.jsonl, one line a run, the tables in DIR/recall.md and DIR/ap.md with plots beside
    them, trained predictors in DIR/models.

    Example: cass ablate --train train.json --test test.json --images images/ --out ablation
    """
    from cass_lab.reports.report import write_reports
    from cass_lab.training.runs import Run, Store
    from cass_lab.training.variants import BASELINE, VARIANTS

    wanted = _measures(measures)
    for name in variant or ():
        require_known("--variant", name, VARIANTS)
    chosen = [
        v for name, v in VARIANTS.items() if not variant or name == BASELINE or name in variant
    ]
    recipe, stride = options.recipe(), options.stride
    data, store = options.load(), Store(options.out)
    runs = [
        Run(v, measure.value, seed, stride, recipe)
        for measure in wanted
        for seed in range(options.seeds)
        for v in chosen
    ]
    records = run_all(options, runs, data, store)
    for report in write_reports(records, chosen, data, stride, store):
        head, *rows = report.table
        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False, emoji=False).print(table)
        typer.echo(f"{report.path}")
    typer.echo(f"{store.models}: predictors, each with its variant and seed as its name")


def _measures(text: str) -> list[Measure]:
    try:
        return [Measure(name) for name in dict.fromkeys(text.split(","))]
    except ValueError:
        raise InvalidRequest(
            "--measures", f"must be recall, ap or recall,ap, got {text!r}"
        ) from None
