"""How far a long command is, on standard error, and what it has to say of its input."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from cass_cli.coco import CocoFile, read_coco
from cass_cli.options import printable


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s"
        )


def progress_bar() -> Progress:
    """A bar with its name, the steps done, their rate, the time taken and the time left."""
    return _progress(Console(stderr=True), MofNCompleteColumn(), _Rate())


def load_coco(
    path: Path,
    *,
    skip_invalid: bool = False,
    categories: bool = False,
    limit: int | None = None,
    left_out: str = "left out, whose area is background",
) -> CocoFile:
    """`cass_cli.coco.read_coco` with a bar of the bytes read, and its notes on standard error.

    Args:
        path, skip_invalid, categories, limit: its arguments.
        left_out: what the caller does with crowd regions and ignored objects, in words.
    """
    console = Console(stderr=True)
    columns = DownloadColumn(), TransferSpeedColumn()
    with _progress(console, *columns, only_for_terminals=True) as progress:
        file = read_coco(
            path, skip_invalid=skip_invalid, categories=categories, limit=limit, progress=progress
        )
    notes = [f"{file.left_out} {left_out}"] if file.left_out else []
    for note in (*notes, *file.notes):
        typer.echo(printable(f"{path}: {note}"), err=True)
    return file


def _progress(
    console: Console, *columns: ProgressColumn, only_for_terminals: bool = False
) -> Progress:
    name = TextColumn("{task.description}", markup=False)
    times = TimeElapsedColumn(), TextColumn("done,"), TimeRemainingColumn(), TextColumn("left")
    return Progress(
        *(name, BarColumn(), *columns, *times),
        console=console,
        transient=only_for_terminals,
        disable=only_for_terminals and not console.is_terminal,
    )
