"""The settings as a table, for the command's options, its messages and the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import ByteSize

from cass_server.config.settings import PREFIX, Settings, Words


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to tell about one setting.

    Attributes:
        name: in `Settings` and in a TOML file, as in ``max_images``.
        option: of the command line, as in ``--max-images``.
        variable: of the environment, as in ``CASS_MAX_IMAGES``.
        type: what it must be, in words.
        default: in words; empty if it is not set.
        help: what it is for, a sentence.
        group: heading to list it under.
        metavar: what to write after the option; empty for a flag.
    """

    name: str
    option: str
    variable: str
    type: str
    default: str
    help: str
    group: str
    metavar: str


def settings_table() -> Iterator[Setting]:
    """Every setting, group by group.

    Example:
        >>> next(s.type for s in settings_table() if s.name == "port")
        'a whole number from 0 to 65535'
    """
    for name, field in Settings.model_fields.items():
        assert isinstance(field.json_schema_extra, dict)  # by _setting
        words = _words(field.annotation, field.metadata)
        yield Setting(
            name,
            "--" + name.replace("_", "-"),
            PREFIX + name.upper(),
            words.text,
            _default_words(field.default),
            field.description or "",
            str(field.json_schema_extra["group"]),
            words.metavar,
        )


_PLAIN_WORDS = {
    bool: Words("true or false", ""),
    int: Words("a whole number", "NUMBER"),
    float: Words("a number", "NUMBER"),
    ByteSize: Words("a number of bytes (as in 65536 or 64KiB)", "BYTES"),
    Path: Words("a path", "FILE"),
}


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> Words:
    for told in metadata:
        if isinstance(told, Words):
            return told
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], arguments[1:])
    if origin is Literal:
        return Words(_join(arguments), "|".join(arguments))
    if origin in (Union, UnionType):
        members = [_words(argument) for argument in arguments if argument is not type(None)]
        return Words(
            _join(member.text for member in members), "|".join(member.metavar for member in members)
        )
    plain = _PLAIN_WORDS[annotation]
    return Words(plain.text + _range_words(metadata), plain.metavar)


def _range_words(metadata: Iterable[Any]) -> str:
    least = [bound.ge for bound in metadata if isinstance(bound, Ge)]
    most = [bound.le for bound in metadata if isinstance(bound, Le)]
    return "".join([f" from {bound}" for bound in least] + [f" to {bound}" for bound in most])


def _join(texts: Iterable[str]) -> str:
    *rest, last = texts
    return f"{', '.join(rest)} or {last}" if rest else last


def _default_words(default: Any) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
