"""The lab's commands of `cass`. Light to import: what is heavy is imported by a call."""

from __future__ import annotations

import importlib.util

import typer

_REQUIREMENTS = ("torch", "optuna", "faster_coco_eval", "matplotlib", "PIL")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line, if what they need is installed."""
    if not all(map(importlib.util.find_spec, _REQUIREMENTS)):
        return
    from cass_cli.options import add_command
    from cass_lab.commands.ablate import ablate
    from cass_lab.commands.plot import plot
    from cass_lab.commands.sheet import sheet
    from cass_lab.commands.tune import tune

    # Of two commands of one name the later one counts: this `plot` draws scores as well.
    for command in (ablate, tune, sheet, plot):
        add_command(app, command)
