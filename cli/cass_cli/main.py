"""The command `cass`."""

from __future__ import annotations

import importlib
import importlib.util
import sys

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


def _add_lab() -> None:
    """`ablate` and `tune`. Their package stands above this one, so it is found by its name, and
    only when the command is run; a wheel always has it, a light checkout need not."""
    if importlib.util.find_spec("cass_lab"):
        importlib.import_module("cass_lab.cli").register(app)


def main() -> None:
    """Entry point of the command."""
    _add_lab()
    try:
        app()
    except (CassError, OSError, MemoryError) as error:
        typer.echo(f"cass: {str(error) or 'not enough memory'}", err=True)
        sys.exit(1)
