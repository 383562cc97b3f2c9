"""The lab's commands of `cass`. Light to import: what is heavy is imported by a call."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cass_core.errors import CassError, InvalidRequest
from cass_lab.sheet.command import sheet

if TYPE_CHECKING:
    from cass_lab.data.dataset import Dataset
    from cass_lab.training.runs import Record
    from cass_lab.training.variants import Variant


# Change of a picture's width : height that is told of.
_ASPECT_TOLERANCE = 0.05


class Measure(StrEnum):
    """What to measure."""

    recall = "recall"
    ap = "ap"


class Device(StrEnum):
    """Where to train."""

    cpu = "cpu"
    cuda = "cuda"


TrainOption = Annotated[
    Path,
    typer.Option(
        "--train",
        metavar="FILE.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="COCO object-detection annotations to train on.",
    ),
]
TestOption = Annotated[
    Path,
    typer.Option(
        "--test",
        metavar="FILE.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="Annotations to measure on, of other scenes.",
    ),
]
ImagesOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR", exists=True, file_okay=False, help="Folder with the pictures of both files."
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        help="Folder for results; a second call with the same goes on where the first one was.",
    ),
]
SizeOption = Annotated[
    str, typer.Option(metavar="WxH", help="Pixels that every picture is stretched to.")
]
StrideOption = Annotated[int, typer.Option(help="Pixels of a patch's side: 4, 8, 16 or 32.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Trainings of each variant.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images a training step.")]
RateOption = Annotated[
    float, typer.Option(min=1e-6, help="Largest learning rate of the one-cycle schedule.")
]
JobsOption = Annotated[int, typer.Option(min=1, help="Trainings at once, each on one CPU core.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to train.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        help="Folder for decoded pictures, 3 bytes a pixel; by default OUT/cache.",
    ),
]


def ablate(
    train: TrainOption,
    test: TestOption,
    images: ImagesOption,
    out: OutOption,
    size: SizeOption = "640x384",
    stride: StrideOption = 8,
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
    seeds: SeedsOption = 3,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 8,
    learning_rate: RateOption = 5e-3,
    jobs: JobsOption = 1,
    device: DeviceOption = Device.cpu,
    cache: CacheOption = None,
) -> None:
    """Measure what each improvement of target and loss is worth on your own data.

    A small patch-importance predictor is trained once for each variant and seed. The results are
    in DIR/runs.jsonl, one line a run, the tables in DIR/recall.md and DIR/ap.md with plots beside
    them, trained predictors in DIR/models.

    Example: cass ablate --train train.json --test test.json --images images/ --out ablation
    """
    _require_lab()
    from cass_lab.reports.report import write_reports
    from cass_lab.training.runs import Run, Store
    from cass_lab.training.train import Recipe
    from cass_lab.training.variants import BASELINE, VARIANTS
    from cass_lab.training.workers import run_all

    _require(device)
    wanted = _measures(measures)
    for name in variant or ():
        if name not in VARIANTS:
            raise InvalidRequest("--variant", f"{name!r} must be one of {', '.join(VARIANTS)}")
    chosen = [
        v for name, v in VARIANTS.items() if not variant or name == BASELINE or name in variant
    ]
    recipe = Recipe(epochs, batch_size, learning_rate, device.value)
    data = _load(train, test, images, _size(size, stride), cache or out / "cache")
    store = Store(out)
    runs = [
        Run(v, measure.value, seed, stride, recipe)
        for measure in wanted
        for seed in range(seeds)
        for v in chosen
    ]
    with _progress(f"{len(runs)} runs", sum(run.steps for run in runs)) as step_done:
        records = run_all(runs, data, store, jobs, step_done)
    for path in write_reports(records, chosen, data, stride, store):
        typer.echo(str(path))


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
    _require_lab()
    from cass_lab import tuning
    from cass_lab.training.runs import Run, Store
    from cass_lab.training.train import Recipe
    from cass_lab.training.workers import run_all

    _require(device)
    space = tuning.parse_space(choice or tuning.AUDIT_SPACE)
    recipe = Recipe(epochs, batch_size, learning_rate, device.value)
    data = _load(train, test, images, _size(size, stride), cache or out / "cache")
    store = Store(out)
    plain = tuning.variant_of({})
    basis = [Run(plain, "recall", i, stride, recipe).key(*data) for i in range(seeds)]
    study = tuning.open_study(out, space, random, basis)
    trials = random or tuning.combinations(space)
    with _progress(f"{trials} trials", trials * seeds * (epochs + 1)) as step_done:

        def measure(variants: Sequence[Variant]) -> list[list[Record]]:
            runs = [Run(v, "recall", i, stride, recipe) for v in variants for i in range(seeds)]
            records = run_all(runs, data, store, jobs, step_done)
            return [records[i : i + seeds] for i in range(0, len(records), seeds)]

        def already_told(done: int) -> None:
            step_done(done * seeds * (epochs + 1))

        tuning.sweep(study, space, trials, measure, already_told)
    path = out / "tune.md"
    path.write_text(tuning.table(study, space) + "\n")
    typer.echo(str(path))


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("ablate")(ablate)
    app.command("tune")(tune)
    app.command("sheet")(sheet)


def _require_lab() -> None:
    missing = [
        m for m in ("torch", "optuna", "faster_coco_eval") if not importlib.util.find_spec(m)
    ]
    if missing:
        raise CassError(
            f'this command needs {", ".join(missing)}; install them with: pip install "cass[lab]"'
        )


def _require(device: Device) -> None:
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise InvalidRequest("--device", "there is no GPU that torch can use")


def _measures(text: str) -> list[Measure]:
    try:
        return [Measure(name) for name in dict.fromkeys(text.split(","))]
    except ValueError:
        raise InvalidRequest(
            "--measures", f"must be recall, ap or recall,ap, got {text!r}"
        ) from None


def _size(text: str, stride: int) -> tuple[int, int]:
    """``640x384`` as (H, W)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise InvalidRequest("--size", f"must be WIDTHxHEIGHT as in 640x384, got {text!r}")
    width, height = int(match[1]), int(match[2])
    if stride not in (4, 8, 16, 32):
        raise InvalidRequest("--stride", f"must be 4, 8, 16 or 32, got {stride}")
    if not (width and height) or width % stride or height % stride:
        raise InvalidRequest("--size", f"both sides must be multiples of {stride}, got {text}")
    return height, width


def _load(
    train: Path, test: Path, images: Path, size: tuple[int, int], cache: Path
) -> tuple[Dataset, Dataset]:
    from cass_lab.data.dataset import load_datasets

    with _progress("pictures", None) as step_done:
        data = load_datasets((train, test), images, size, cache, lambda: step_done(1))
    change = max(dataset.aspect_change for dataset in data) - 1
    if change > _ASPECT_TOLERANCE:
        typer.echo(
            f"--size changes width : height of a picture by {100 * change:.0f} %: sizes and shapes "
            "of objects are those after it is stretched",
            err=True,
        )
    return data


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error with the time left; a function that moves it by so many steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total)
        yield lambda steps: progress.advance(task, steps)
