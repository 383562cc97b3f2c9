"""Settings from the command line, the environment and a TOML file, and where each came from."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from cass_core.errors import CassError, InvalidRequest
from cass_server.config.reference import Setting, settings_table, shown
from cass_server.config.settings import PREFIX, Settings

CONFIG_VARIABLE = PREFIX + "CONFIG"
"""The environment variable with the path of the TOML file."""

# The client's own, however near to a setting's.
_CLIENT_NAMES = "TARGET TIMEOUT TIMEOUT_SECONDS TOKEN TLS_CA TLS_SERVER_NAME FALLBACK RAY_LISTS"
_CLIENT_VARIABLES = {PREFIX + name for name in _CLIENT_NAMES.split()}
# Names of one or two wrong letters are above it. What other programs and Kubernetes (for a
# Service named cass, CASS_SERVICE_PORT and the like) put into the environment is below.
_TYPO = 0.8
_FAR = 0.6
_SERVICE_LINK = " (Kubernetes sets it for a Service of that name: set enableServiceLinks to false)"


class SettingsError(CassError):
    """Settings that cannot be used: one line for each, with its source and the reason."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value came from.

    Attributes:
        label: names the setting as it was given, as in ``CASS_PORT (environment)``.
        source: as in ``environment CASS_PORT``.
    """

    label: str
    source: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and their origins.

    Attributes:
        settings: the settings in force.
        origins: where each setting came from, by its name.
        foreign: variables of the environment that begin like a setting's and are none.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    foreign: tuple[str, ...]

    def toml(self) -> str:
        """A file that gives the same settings, with a comment on each: where it came from."""
        lines = []
        for name, value in self.settings.model_dump(mode="json").items():
            # JSON's scalars are TOML's as well, if strings keep what is beyond ASCII.
            literal = json.dumps(value, ensure_ascii=False)
            line = f"# {name} is not set" if value is None else f"{name} = {literal}"
            lines.append(f"{line}  # {self.origins[name].source}\n")
        lines += [f"# environment {name} is no setting\n" for name in self.foreign]
        return "".join(lines)


def load_settings(command_line: Mapping[str, Any], config: Path | None = None) -> LoadedSettings:
    """Take each setting from the first that has it: command line, environment, file, default.

    A variable of the environment that is nearly a setting's fails, since a server without its
    token file or certificate because of a typo would be worse than none. Other unknown ones are
    passed over: they may be the client's, or set by Kubernetes.

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
    known = {CONFIG_VARIABLE, *(setting.variable for setting in table.values())}
    begun_alike = (name for name in sorted(os.environ) if name.upper().startswith(PREFIX))
    foreign = tuple(name for name in begun_alike if name.upper() not in known)
    faults = [
        f"{shown(key)} ({config}): is no setting{_suggestion(key, table, _FAR)}"
        for key in sorted(from_file.keys() - table.keys())
    ]
    for name in foreign:
        near = _suggestion(name.upper(), known, _TYPO)
        if near and name.upper() not in _CLIENT_VARIABLES:
            faults.append(f"{name} (environment): is no setting{near}")
    if faults:
        raise SettingsError("\n".join(faults))
    given = {name: value for name, value in command_line.items() if value is not None}
    from_environment = EnvSettingsSource(Settings)()

    def origin(name: str, setting: Setting) -> Origin:
        if name in given:
            return Origin(f"{setting.option} (command line)", "command line")
        if name in from_environment:
            variable = setting.variable
            return Origin(f"{variable} (environment)", f"environment {variable}")
        if name in from_file:
            return Origin(f"{name} ({config})", str(config))
        return Origin(f"{name} (default)", "default")

    origins = {name: origin(name, setting) for name, setting in table.items()}
    try:
        settings = Settings(**ChainMap(given, from_environment, from_file))
    except ValidationError as error:
        raise SettingsError("\n".join(_faults(error, table, origins))) from None
    return LoadedSettings(settings, origins, foreign)


def _read(config: Path, label: str) -> dict[str, Any]:
    # Not by pydantic-settings' source of TOML, which passes over a file that is missing.
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{label}: cannot read {config}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{label}: {config} is not TOML: {error}") from None


def _suggestion(name: str, known: Iterable[str], cutoff: float) -> str:
    # Without the prefix, which makes all names alike.
    names = {other.removeprefix(PREFIX): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), list(names), 1, cutoff)
    return f"; did you mean {names[near[0]]}?" if near else ""


def _faults(
    error: ValidationError, table: Mapping[str, Setting], origins: Mapping[str, Origin]
) -> Iterator[str]:
    values = {}
    for fault in error.errors():
        if fault["loc"]:
            # A union has one fault for each of its types.
            values[str(fault["loc"][0])] = fault["input"]
            continue
        cause = fault["ctx"]["error"]
        assert isinstance(cause, InvalidRequest)  # by Settings
        yield f"{origins[cause.field].label}: {cause.reason}"
    for name, value in values.items():
        hint = ""
        if isinstance(value, str) and value.startswith("tcp://"):
            hint = (
                " (Kubernetes sets it for a Service of that name: set enableServiceLinks to false)"
            )
        yield f"{origins[name].label}: must be {table[name].type}, got {shown(value)}{hint}"
