"""The command `cass`."""

from __future__ import annotations

import sys
from importlib import metadata

import typer

from cass_cli import info, mask, plot
from cass_core.errors import CassError

app = typer.Typer(
    help="Soft target masks for token-pruning detectors, from COCO files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it would take the brackets of array shapes for markup
    pretty_exceptions_enable=False,
)
app.command("mask")(mask.mask)
app.command("plot")(plot.plot)
app.command("info")(info.info)


GROUP = "cass.commands"
"""Entry points by which packages above this one add commands: functions that take the app."""


def main() -> None:
    """Entry point of the command."""
    for entry in metadata.entry_points(group=GROUP):
        entry.load()(app)
    try:
        app()
    except (CassError, OSError, MemoryError) as error:
        typer.echo(f"cass: {str(error) or 'not enough memory'}", err=True)
        sys.exit(1)
