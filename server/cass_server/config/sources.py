"""Settings from the command line, the environment and a TOML file, and where each came from."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
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

# Names of one or two wrong letters are above it. What other programs and Kubernetes (for a
# Service named cass, CASS_SERVICE_PORT and the like) put into the environment is below.
_TYPO = 0.8
_FAR = 0.6
# Hosts that are given as a URL, with a port or in brackets, and the settings of their ports.
_URL = re.compile(r"(?:\w+://)?(?:[^/]*@)?(?:\[([^\]]+)\]|([^\s:/\[\]]+))(?::([0-9]+))?/?")
_PORTS = {"host": "port", "metrics_host": "metrics_port"}
_SERVICE_LINK = " (Kubernetes sets it for a Service of that name: set enableServiceLinks to false)"


class SettingsError(CassError):
    """Settings that cannot be used: one line for each, with its source and the reason."""


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and where they came from.

    Attributes:
        settings: the settings in force.
        given: those that are no defaults, as they were given: ``CASS_PORT (environment)``.
        foreign: variables of the environment that begin like a setting's and are none.
    """

    settings: Settings
    given: Mapping[str, str]
    foreign: tuple[str, ...]

    def toml(self) -> str:
        """A file that gives the same settings, with a comment on each: where it came from."""
        lines = []
        for name, value in self.settings.model_dump(mode="json").items():
            # JSON's scalars are TOML's as well, if strings keep what is beyond ASCII.
            literal = json.dumps(value, ensure_ascii=False)
            line = f"# {name} is not set" if value is None else f"{name} = {literal}"
            lines.append(f"{line}  # {self.given.get(name, 'default')}\n")
        lines += [f"# environment {name} is no setting\n" for name in self.foreign]
        return "".join(lines)


def load_settings(command_line: Mapping[str, Any], config: Path | None = None) -> LoadedSettings:
    """Take each setting from the first that has it: command line, environment, file, default.

    A variable of the environment that is nearly a setting's fails, since a server without its
    token file or certificate because of a typo would be worse than none. Other unknown ones are
    passed over: Kubernetes sets some, and the client has its own.

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
        f"{shown(key)} ({shown(config)}): is no setting{_suggestion(key, table, _FAR)}"
        + ("; settings have no headings" if isinstance(from_file[key], dict) else "")
        for key in sorted(from_file.keys() - table.keys())
    ]
    for name in foreign:
        near = _suggestion(name.upper(), known, _TYPO)
        if near:
            faults.append(f"{name} (environment): is no setting{near}")
    if faults:
        raise SettingsError("\n".join(faults))
    from_command_line = {name: value for name, value in command_line.items() if value is not None}
    from_environment = EnvSettingsSource(Settings)()
    given = {name: f"{name} ({shown(config)})" for name in from_file}
    given |= {name: f"{table[name].variable} (environment)" for name in from_environment}
    given |= {name: f"{table[name].option} (command line)" for name in from_command_line}
    try:
        settings = Settings(**{**from_file, **from_environment, **from_command_line})
    except ValidationError as error:
        raise SettingsError("\n".join(_faults(error, table, given))) from None
    return LoadedSettings(settings, given, foreign)


def _read(config: Path, label: str) -> dict[str, Any]:
    # Not by pydantic-settings' source of TOML, which passes over a file that is missing.
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(config.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = f"cannot read {shown(config)}: {error.strerror}"
    except UnicodeDecodeError:
        reason = f"{shown(config)} is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        reason = f"{shown(config)} is not TOML: {error}"
    raise SettingsError(f"{label}: {reason}")


def _suggestion(name: str, known: Iterable[str], cutoff: float) -> str:
    # Without the prefix, which makes all names alike.
    names = {other.removeprefix(PREFIX): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), list(names), 1, cutoff)
    return f"; did you mean {names[near[0]]}?" if near else ""


def _faults(
    error: ValidationError, table: Mapping[str, Setting], given: Mapping[str, str]
) -> Iterator[str]:
    values = {}
    for fault in error.errors():
        if fault["loc"]:
            # A union has one fault for each of its types.
            values[str(fault["loc"][0])] = fault["input"]
            continue
        cause = fault["ctx"]["error"]
        assert isinstance(cause, InvalidRequest)  # by Settings
        yield f"{given[cause.field]}: {cause.reason}"
    for name, value in values.items():
        yield f"{given[name]}: must be {table[name].type}, got {_shown(value)}{_hint(name, value)}"


def _shown(value: object) -> str:
    # A host may have been given as a URL with a password, a path as the key itself.
    text = shown(value)
    if "-----BEGIN" in text:
        return "the text of a file"
    return f"…@{text.rpartition('@')[2]}" if "@" in text else text


def _hint(name: str, value: object) -> str:
    if isinstance(value, str) and value.startswith("tcp://"):
        return _SERVICE_LINK
    if name in _PORTS and (found := _URL.fullmatch(str(value))):
        port = f", and {found[3]} for {_PORTS[name]}" if found[3] else ""
        return f" (did you mean {found[1] or found[2]}{port}?)"
    return ""
