"""The command `cass`."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from importlib import metadata
from typing import Annotated

import typer

from cass_cli import info, mask, plot
from cass_cli.files import Stopped
from cass_cli.options import add_command, printable
from cass_cli.playground.command import playground
from cass_core import __version__
from cass_core.errors import CassError

GROUP = "cass.commands"
"""Entry points by which packages above this one add commands: functions that take the app."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it would take the brackets of array shapes for markup
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cass {__version__}")
        raise typer.Exit


@app.callback()
def cass(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Soft target masks for token-pruning detectors, from COCO files."""


for _command in (mask.mask, plot.plot, info.info, playground):
    add_command(app, _command)


def _stop(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(f"stopped by {signal.Signals(number).name}", number)


def _print_error(text: str) -> None:
    typer.echo(f"cass: {printable(text)}", err=True)


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"cass: warning: {printable(str(message))}", err=True)


def main() -> None:
    """Entry point of the command."""
    warnings.showwarning = _print_warning  # without the line of ours that it came from
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what a locale has not
    for entry in metadata.entry_points(group=GROUP):
        entry.load()(app)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, nohup ignores it
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        app()
    except (CassError, OSError, MemoryError) as error:
        _print_error(str(error) or "not enough memory")
        sys.exit(1)
    except Stopped as stop:
        _print_error(stop.args[0])
        sys.exit(128 + stop.args[1])
