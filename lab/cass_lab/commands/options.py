"""The options of the commands that train, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cass_cli.files import Stopped
from cass_cli.options import COCO_FILE, LimitOption, SkipInvalidOption
from cass_cli.progress import load_coco, progress_bar
from cass_core.errors import InvalidRequest

if TYPE_CHECKING:
    from cass_lab.data.dataset import Dataset
    from cass_lab.training.runs import Record, Run, Store
    from cass_lab.training.train import Recipe

# Change of a picture's width : height that is reported.
_ASPECT_TOLERANCE = 0.05


class Device(StrEnum):
    """Where to train."""

    cpu = "cpu"
    cuda = "cuda"


def _folder(help_: str, exists: bool = False) -> Any:
    return typer.Option(metavar="DIR", exists=exists, file_okay=False, help=help_)


@dataclass(frozen=True)
class TrainingOptions:
    """What trainings are made with; each field is an option."""

    train: Annotated[
        Path, typer.Option(**COCO_FILE, help="COCO object-detection annotations to train on.")
    ]
    test: Annotated[
        Path, typer.Option(**COCO_FILE, help="Annotations of other scenes, to measure on.")
    ]
    images: Annotated[Path, _folder("Folder with the pictures of both files.", exists=True)]
    out: Annotated[
        Path,
        _folder("Folder for results; the same command goes on where an interrupted one ended."),
    ]
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Pixels that every picture is stretched to.")
    ] = "640x384"
    stride: Annotated[
        int, typer.Option(metavar="N", help="Pixels of a patch's side: 4, 8, 16 or 32.")
    ] = 8
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Trainings of each variant.")] = 3
    epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Passes over the training images.")
    ] = 5
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images per training step.")
    ] = 8
    learning_rate: Annotated[
        float,
        typer.Option(
            metavar="RATE", min=1e-6, help="Largest learning rate of the one-cycle schedule."
        ),
    ] = 5e-3
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Trainings side by side, each on one CPU core.")
    ] = 1
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.cpu
    cache: Annotated[
        Path | None, _folder("Folder for decoded pictures, 3 bytes a pixel; by default OUT/cache.")
    ] = None
    limit: LimitOption = None
    skip_invalid: SkipInvalidOption = False

    def recipe(self) -> Recipe:
        """How to train.

        Raises:
            InvalidRequest: there is no GPU.
        """
        import torch

        from cass_lab.training.train import Recipe

        if self.device is Device.cuda and not torch.cuda.is_available():
            raise InvalidRequest("--device", "there is no GPU that torch can use")
        return Recipe(self.epochs, self.batch_size, self.learning_rate, self.device.value)

    def load(self) -> tuple[Dataset, Dataset]:
        """The two sets, their pictures decoded.

        Raises:
            InvalidRequest: the size does not fit the stride, or a file cannot be used.
        """
        from cass_lab.data.dataset import load_datasets

        size, cache = self._size(), self.cache or self.out / "cache"
        train, test = (
            load_coco(path, skip_invalid=self.skip_invalid, categories=True, limit=self.limit)
            for path in (self.train, self.test)
        )
        pictures = len(train.image_ids) + len(test.image_ids)
        with progress("pictures", pictures) as step_done:
            data = load_datasets((train, test), self.images, size, cache, lambda: step_done(1))
        change = max(dataset.aspect_change for dataset in data) - 1
        if change > _ASPECT_TOLERANCE:
            typer.echo(
                f"--size changes width : height of a picture by {100 * change:.0f} %: sizes and "
                "shapes of objects are those after it is stretched",
                err=True,
            )
        return data

    def _size(self) -> tuple[int, int]:
        """``640x384`` as (H, W)."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.size)
        if match is None:
            raise InvalidRequest("--size", f"must be WIDTHxHEIGHT as in 640x384, got {self.size!r}")
        width, height, stride = int(match[1]), int(match[2]), self.stride
        if stride not in (4, 8, 16, 32):
            raise InvalidRequest("--stride", f"must be 4, 8, 16 or 32, got {stride}")
        if not (width and height) or width % stride or height % stride:
            raise InvalidRequest(
                "--size", f"both sides must be multiples of {stride}, got {self.size}"
            )
        return height, width


def run_all(
    options: TrainingOptions, runs: Sequence[Run], data: tuple[Dataset, Dataset], store: Store
) -> list[Record]:
    """`cass_lab.training.workers.run_all` with a bar, once it is told how long it will take."""
    from cass_lab.training.estimate import estimate_seconds
    from cass_lab.training.workers import pending, run_all

    left = pending(runs, data, store.records())
    words = f"{len(runs)} runs, {len(runs) - len(left)} of them done before"
    if left:
        duration = _duration(estimate_seconds(left, data, options.jobs))
        words += f"; about {duration} with --jobs {options.jobs}"
    typer.echo(words, err=True)
    try:
        with progress(f"{len(runs)} runs", sum(run.steps for run in runs)) as step_done:
            return run_all(runs, data, store, options.jobs, step_done)
    except Stopped as stop:
        words = f"{stop.args[0]}; the same command goes on with what is in {options.out}"
        raise Stopped(words, *stop.args[1:]) from None


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours.

    Example:
        >>> _duration(0.2), _duration(80), _duration(3000), _duration(100_000)
        ('1 s', '80 s', '50 min', '27 h 47 min')
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; a function that moves it by so many steps."""
    with progress_bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda steps: bar.advance(task, steps)
