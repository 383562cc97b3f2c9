"""Options that the commands share, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TimeElapsedColumn, TimeRemainingColumn

from cass_cli.progress import progress_bar
from cass_core.errors import InvalidRequest

if TYPE_CHECKING:
    from cass_lab.data.dataset import Dataset

# Change of a picture's width : height that is reported.
_ASPECT_TOLERANCE = 0.05


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


def check_device(device: Device) -> None:
    """Refuse a GPU that is not there.

    Raises:
        InvalidRequest: named ``--device``.
    """
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise InvalidRequest("--device", "there is no GPU that torch can use")


def parse_size(text: str, stride: int) -> tuple[int, int]:
    """``640x384`` as (H, W).

    Raises:
        InvalidRequest: no such text, or no multiple of the stride.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise InvalidRequest("--size", f"must be WIDTHxHEIGHT as in 640x384, got {text!r}")
    width, height = int(match[1]), int(match[2])
    if stride not in (4, 8, 16, 32):
        raise InvalidRequest("--stride", f"must be 4, 8, 16 or 32, got {stride}")
    if not (width and height) or width % stride or height % stride:
        raise InvalidRequest("--size", f"both sides must be multiples of {stride}, got {text}")
    return height, width


def load_data(
    train: Path, test: Path, images: Path, size: tuple[int, int], cache: Path
) -> tuple[Dataset, Dataset]:
    """The two sets, their pictures decoded."""
    from cass_lab.data.dataset import load_datasets

    with progress("pictures", None) as step_done:
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
def progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error with the time left; a function that moves it by so many steps."""
    times = TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    with progress_bar(*times) as bar:
        task = bar.add_task(name, total=total)
        yield lambda steps: bar.advance(task, steps)
