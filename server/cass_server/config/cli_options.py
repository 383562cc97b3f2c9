"""The command line's options for the settings, made from the settings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

from cass_core.errors import CassError
from cass_server.config.reference import Setting, settings_table, shown

ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")
]


def takes_settings(
    command: Callable[..., None], hidden: Collection[str] = ()
) -> Callable[..., None]:
    """Give a command an option for each setting, in place of its ``**`` parameter.

    The options are text, and None where not given: `load_settings` checks types and ranges for all
    sources, so that each has the same messages. Hidden ones are left out of the help.
    """
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [*own, *(_parameter(s, hidden=s.name in hidden) for s in settings_table())]
    # Typer reads both.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(setting: Setting, *, hidden: bool) -> inspect.Parameter:
    flag = not setting.metavar
    off = f"/--no-{setting.option.removeprefix('--')}" if flag else ""
    option = typer.Option(
        setting.option + off,
        metavar=setting.metavar or None,
        help=f"{setting.help} [default: {setting.default or 'not set'}]",
        rich_help_panel=setting.group,
        hidden=hidden,
    )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[bool | None if flag else str | None, option],
    )


class GroupedCommand(TyperCommand):
    """Lists options in the help under the headings of their panels, without typer's rich markup."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options' part of the help."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for title, record in self._records(ctx):
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def _records(self, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                yield getattr(parameter, "rich_help_panel", None) or "Options", record


def failure(reason: CassError | str, code: int) -> typer.Exit:
    """Prints the reason, line by line and as nothing that a terminal obeys; returns the exit."""
    for line in str(reason).splitlines():
        typer.echo(f"cass-server: {shown(line)}", err=True)
    return typer.Exit(code)


def say(text: str) -> None:
    """Prints to standard output, which may be on a full disk.

    Raises:
        typer.Exit: it cannot be written, and standard error has the reason.
    """
    try:
        typer.echo(text)
    except BrokenPipeError:  # typer ends quietly
        raise
    except (OSError, UnicodeError) as error:
        raise failure(f"cannot write to standard output: {error}", 1) from error
