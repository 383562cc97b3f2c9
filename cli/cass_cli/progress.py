"""How far a long command is, on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def progress_bar(*more: ProgressColumn) -> Progress:
    """A bar with its name, the steps done and the time left, and more columns if they are given."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, *(more or (TimeRemainingColumn(),)), console=Console(stderr=True))
