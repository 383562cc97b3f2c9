"""The settings as a table, for the command's options, its messages and the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cass_server.config.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as people see it; texts are empty where there is nothing to say."""

    name: str
    option: str
    variable: str
    type: str
    default: str
    help: str
    group: str
    """Heading to list it under."""
    metavar: str
    """Placeholder for the option's value; empty for a flag."""


def settings_table() -> Iterator[Setting]:
    """Every setting, group by group.

    Example:
        >>> next(s.type for s in settings_table() if s.name == "port")
        'a whole number from 0 to 65535'
    """
    for name, schema in Settings.model_json_schema()["properties"].items():
        default = schema["default"]
        words, metavar = _words(schema)
        yield Setting(
            name,
            "--" + name.replace("_", "-"),
            PREFIX + name.upper(),
            words,
            "" if default is None else shown(default),
            schema["description"],
            schema["group"],
            metavar,
        )


def shown(value: object) -> str:
    """A value on one line, as it is written in settings."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if text and text.isprintable() else repr(text)


_WORDS = {
    "boolean": ("true or false", ""),
    "integer": ("a whole number", "NUMBER"),
    "number": ("a number", "NUMBER"),
    "string": ("a path", "FILE"),
}


def _words(schema: Mapping[str, Any]) -> tuple[str, str]:
    """The type of a JSON schema in words, and its metavar."""
    if "words" in schema:
        return schema["words"], schema["metavar"]
    if "anyOf" in schema:
        types = [_words(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return _join([words for words, _ in types]), "|".join(dict.fromkeys(m for _, m in types))
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return _join(choices), "|".join(choices)
    words, metavar = _WORDS[schema["type"]]
    if "minimum" in schema:
        words += f" from {schema['minimum']} to {schema['maximum']}"
    return words, metavar


def _join(words: Sequence[str]) -> str:
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last
