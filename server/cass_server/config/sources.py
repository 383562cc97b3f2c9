"""Settings from the command line, the environment and a TOML file, and where each came from."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from cass_core.errors import CassError, InvalidRequest
from cass_server.config.reference import settings_table
from cass_server.config.settings import PREFIX, Settings

CONFIG_VARIABLE = PREFIX + "CONFIG"
"""The environment variable with the path of the TOML file."""

# Names of one or two wrong letters are above it. What other programs and Kubernetes (for a
# Service named cass, CASS_SERVICE_PORT and the like) put into the environment is below.
_TYPO = 0.8
_FAR = 0.6


class SettingsError(CassError):
    """Settings that cannot be used: one line for each, with its source and the reason."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value came from.

    Attributes:
        label: names the setting as it was given, as in ``CASS_PORT (environment)``.
        place: as in ``environment CASS_PORT``.
    """

    label: str
    place: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and their origins.

    Attributes:
        settings: what is in force.
        origins: where each setting came from, by its name.
        foreign: variables of the environment that begin like a setting's and are none.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    foreign: tuple[str, ...]

    def toml(self) -> str:
        """A file that gives the same settings, with a comment on each: where it came from."""
        lines = []
        for name, origin in self.origins.items():
            value = getattr(self.settings, name)
            line = f"# {name} is not set" if value is None else f"{name} = {_toml_value(value)}"
            lines.append(f"{line}  # {origin.place}\n")
        lines += [f"# environment {name} is no setting\n" for name in self.foreign]
        return "".join(lines)


def load_settings(command_line: Mapping[str, Any], config: Path | None = None) -> LoadedSettings:
    """Take each setting from the first that has it: command line, environment, file, default.

    A variable of the environment that is nearly a setting's fails, since a server without its
    token file or certificate because of a typo would be worse than none. Other unknown ones are
    passed over: they may be another part's, or set by Kubernetes.

    Args:
        command_line: the values given there, by the settings' names; None is not given.
        config: the TOML file; None for the one that ``CASS_CONFIG`` names, if it does.

    Raises:
        SettingsError: a value or a name cannot be used, or the file cannot be read.
    """
    label = "--config (command line)"
    if config is None and os.environ.get(CONFIG_VARIABLE):
        label, config = f"{CONFIG_VARIABLE} (environment)", Path(os.environ[CONFIG_VARIABLE])
    table = {setting.name: setting for setting in settings_table()}
    from_file = {} if config is None else _read(config, label)
    variables = [CONFIG_VARIABLE, *(setting.variable for setting in table.values())]
    foreign = tuple(
        name
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in variables
    )
    faults = [*_unknown_keys(from_file, table, config), *_typos(foreign, variables)]
    if faults:
        raise SettingsError("\n".join(faults))
    from_environment = EnvSettingsSource(Settings)()
    given = {name: value for name, value in command_line.items() if value is not None}
    origins: dict[str, Origin] = {}
    for name, setting in table.items():
        origins[name] = Origin(f"{name} (default)", "default")
        if name in from_file:
            origins[name] = Origin(f"{name} ({config})", str(config))
        if name in from_environment:
            variable = setting.variable
            origins[name] = Origin(f"{variable} (environment)", f"environment {variable}")
        if name in given:
            origins[name] = Origin(f"{setting.option} (command line)", "command line")
    try:
        settings = Settings(**(from_file | from_environment | given))
    except ValidationError as error:
        raise SettingsError("\n".join(_faults(error, origins))) from None
    return LoadedSettings(settings, origins, foreign)


def _read(config: Path, label: str) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{label}: cannot read {config}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{label}: {config} is not TOML: {error}") from None


def _unknown_keys(
    from_file: Iterable[str], known: Iterable[str], config: Path | None
) -> Iterator[str]:
    for key in sorted(set(from_file).difference(known)):
        yield f"{_shown(key)} ({config}): is no setting" + _suggestion(key, known, _FAR)


def _typos(foreign: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    # Without the prefix, which makes all names alike.
    bare = [name.removeprefix(PREFIX) for name in known]
    for name in foreign:
        suggestion = _suggestion(name[len(PREFIX) :].upper(), bare, _TYPO, PREFIX)
        if suggestion:
            yield f"{name} (environment): is no setting{suggestion}"


def _suggestion(name: str, known: Iterable[str], cutoff: float, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _faults(error: ValidationError, origins: Mapping[str, Origin]) -> Iterator[str]:
    types = {setting.name: setting.type for setting in settings_table()}
    told = set()
    for fault in error.errors():
        if not fault["loc"]:
            cause = fault["ctx"]["error"]
            assert isinstance(cause, InvalidRequest)  # by Settings
            yield f"{origins[cause.field].label}: {cause.reason}"
            continue
        name = str(fault["loc"][0])
        # A union has one fault for each of its types.
        if name in told:
            continue
        told.add(name)
        value = fault["input"]
        yield f"{origins[name].label}: must be {types[name]}, got {_shown(value)}{_hint(value)}"


def _hint(value: object) -> str:
    if isinstance(value, str) and value.startswith("tcp://"):
        return " (Kubernetes sets it for a Service of that name: set enableServiceLinks to false)"
    return ""


def _shown(value: object) -> str:
    """A value on one line, as it was written."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if text and text.isprintable() else repr(text)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    # JSON's strings are TOML's as well, if they keep what is beyond ASCII.
    return json.dumps(str(value), ensure_ascii=False)
