"""`cass tune`: a sweep over options of target and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cass_cli.files import whole_file
from cass_cli.options import printable, takes
from cass_lab.commands.options import TrainingOptions, run_all

if TYPE_CHECKING:
    from cass_lab.training.runs import Record
    from cass_lab.training.variants import Variant


@takes("options", TrainingOptions)
def tune(
    options: TrainingOptions,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=V1,V2",
            help="Values of an option of target, loss or weights; by default the audit's of "
            "small_target_gain, alpha and beta.",
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Try N random combinations instead of all of them."),
    ] = None,
) -> None:
    """Sweep options of the improved preset for the largest area under the recall–keep curve.

    The study is in DIR/tune.db (Optuna), the runs are in DIR/runs.jsonl, and all trials, the best
    first, in DIR/tune.md. --test is what the choice is made by: measure it on other annotations.

    Example: cass tune --train train.json --test val.json --images images/ --out tuning
    """
    from cass_lab import tuning
    from cass_lab.training.runs import Run, Store

    space = tuning.parse_space(choice or tuning.AUDIT_SPACE)
    recipe, stride, seeds = options.recipe(), options.stride, options.seeds
    data, store = options.load(), Store(options.out)
    plain = tuning.variant_of({})
    basis = [Run(plain, "recall", i, stride, recipe).key(*data) for i in range(seeds)]
    trials = random or len(tuning.combinations(space))

    def measure(variants: Sequence[Variant]) -> list[list[Record]]:
        runs = [Run(v, "recall", i, stride, recipe) for v in variants for i in range(seeds)]
        records = run_all(options, runs, data, store)
        return [records[i : i + seeds] for i in range(0, len(records), seeds)]

    with tuning.database_errors(options.out):
        study = tuning.open_study(options.out, space, random, basis)
        tuning.sweep(study, space, trials, measure)
        table = tuning.table(study, space)
    path = options.out / "tune.md"
    with whole_file(path) as file:
        file.write((table + "\n").encode())
    typer.echo(printable(str(path)))
