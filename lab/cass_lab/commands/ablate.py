"""`cass ablate`: what each improvement is worth on a user's data."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cass_cli.options import printable, require_known, takes
from cass_core.errors import InvalidRequest
from cass_lab.commands.options import TrainingOptions, run_all


@takes("options", TrainingOptions)
def ablate(
    options: TrainingOptions,
    measures: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="recall (a predictor alone), ap (a pruned detector, which takes twice as long), "
            "or recall,ap.",
        ),
    ] = "recall",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A variant to compare with the baseline, by default all; repeatable.",
        ),
    ] = None,
) -> None:
    """Measure what each improvement of target and loss is worth on your own data.

    A small patch-importance predictor is trained once for each variant and seed. The results are
    in DIR/runs.jsonl, one line per run, the tables in DIR/recall.md and DIR/ap.md with plots beside
    them, and the trained predictors in DIR/models, named by variant and seed.

    Example: cass ablate --train train.json --test test.json --images images/ --out ablation
    """
    from cass_lab.reports.report import write_reports
    from cass_lab.training.runs import MEASURES, Run, Store
    from cass_lab.training.variants import BASELINE, VARIANTS

    wanted = [measure for measure in MEASURES if measure in measures.split(",")]
    for name in measures.split(","):
        require_known("--measures", name, MEASURES)
    for name in variant or ():
        require_known("--variant", name, VARIANTS)
        if "ap" in wanted and VARIANTS[name].levels > 1:
            raise InvalidRequest("--variant", f"{name} scores several levels, ap is of one")
    chosen = [
        v for name, v in VARIANTS.items() if not variant or name == BASELINE or name in variant
    ]
    recipe, stride = options.recipe(), options.stride
    data, store = options.load(), Store(options.out)
    runs = [
        Run(v, measure, seed, stride, recipe)
        for measure in wanted
        for seed in range(options.seeds)
        for v in chosen
        if measure == "recall" or v.levels == 1
    ]
    records = run_all(options, runs, data, store)
    for report in write_reports(records, chosen, data, stride, store):
        head, *rows = report.table
        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False, emoji=False).print(table)
        typer.echo(printable(str(report.path)))
    words = f"{store.models}: predictors, each with its variant and seed as its name"
    typer.echo(printable(words))
