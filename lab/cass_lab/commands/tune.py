"""`cass tune`: a sweep over options of target and loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cass_lab.commands.options import (
    BatchOption,
    CacheOption,
    Device,
    DeviceOption,
    EpochsOption,
    ImagesOption,
    JobsOption,
    OutOption,
    RateOption,
    SeedsOption,
    SizeOption,
    StrideOption,
    TrainOption,
    check_device,
    load_data,
    parse_size,
    progress,
)

if TYPE_CHECKING:
    from cass_lab.training.runs import Record
    from cass_lab.training.variants import Variant


def tune(
    train: TrainOption,
    test: Annotated[
        Path,
        typer.Option(
            metavar="FILE.json",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Annotations to choose by; measure the choice on others.",
        ),
    ],
    images: ImagesOption,
    out: OutOption,
    size: SizeOption = "640x384",
    stride: StrideOption = 8,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=V1,V2",
            help="Values of an option of target or loss; by default the audit's of "
            "small_target_gain, alpha and beta.",
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(min=1, help="Try so many random combinations instead of all of them."),
    ] = None,
    seeds: SeedsOption = 3,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 8,
    learning_rate: RateOption = 5e-3,
    jobs: JobsOption = 1,
    device: DeviceOption = Device.cpu,
    cache: CacheOption = None,
) -> None:
    """Sweep options of the improved preset for the largest area under the recall–keep curve.

    The study is in DIR/tune.db (Optuna), the runs are in DIR/runs.jsonl, and all trials, the best
    first, in DIR/tune.md.

    Example: cass tune --train train.json --test val.json --images images/ --out tuning
    """
    from cass_lab import tuning
    from cass_lab.training.runs import Run, Store
    from cass_lab.training.train import Recipe
    from cass_lab.training.workers import run_all

    check_device(device)
    space = tuning.parse_space(choice or tuning.AUDIT_SPACE)
    recipe = Recipe(epochs, batch_size, learning_rate, device.value)
    data = load_data(train, test, images, parse_size(size, stride), cache or out / "cache")
    store = Store(out)
    plain = tuning.variant_of({})
    basis = [Run(plain, "recall", i, stride, recipe).key(*data) for i in range(seeds)]
    study = tuning.open_study(out, space, random, basis)
    trials = random or tuning.combinations(space)
    with progress(f"{trials} trials", trials * seeds * (epochs + 1)) as step_done:

        def measure(variants: Sequence[Variant]) -> list[list[Record]]:
            runs = [Run(v, "recall", i, stride, recipe) for v in variants for i in range(seeds)]
            records = run_all(runs, data, store, jobs, step_done)
            return [records[i : i + seeds] for i in range(0, len(records), seeds)]

        def report_done(done: int) -> None:
            step_done(done * seeds * (epochs + 1))

        tuning.sweep(study, space, trials, measure, report_done)
    path = out / "tune.md"
    path.write_text(tuning.table(study, space) + "\n")
    typer.echo(str(path))
