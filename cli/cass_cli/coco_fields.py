"""The values of a COCO file's entries, checked one by one, and the classes of categories."""

from __future__ import annotations

import math
import reprlib
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from cass_cli.json_lists import Entries, MissingList
from cass_core.errors import InvalidRequest
from cass_core.grid import MAX_SIDE

Id = int | str
NAMED = 3
"""Invalid entries that are described one by one."""


class Invalid:
    """Counts the entries that cannot be used, as a context of the work on one."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[InvalidRequest] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if not isinstance(error, InvalidRequest):
            return False
        self.count += 1
        if self.count <= NAMED:
            self._first.append(error)
        return True

    def __str__(self) -> str:
        more = self.count - len(self._first)
        return "; ".join([*map(str, self._first), *([f"and {more} more"] if more else [])])

    @property
    def entries(self) -> str:
        """How many there are, in words."""
        return f"{self.count} entr{'y' if self.count == 1 else 'ies'}"

    def refusal(self) -> InvalidRequest:
        """The error of a file that has some."""
        hint = "--skip-invalid leaves such entries out"
        if self.count == 1:
            return InvalidRequest(self._first[0].field, f"{self._first[0].reason} ({hint})")
        return InvalidRequest(self.entries, f"cannot be used: {self} ({hint})")


class Classes:
    """Labels by the ids of categories; without a list of these, ids are names."""

    def __init__(self, entries: Entries, invalid: AbstractContextManager[None]) -> None:
        self._numbers: dict[str, int] = {}
        self._labels: dict[Id, int] = {}
        self._listed = True
        try:
            for i, category in enumerate(entries("categories")):
                with invalid:
                    self._read(category, f"categories[{i}]")
        except MissingList:
            self._listed = False

    def _read(self, category: Any, entry: str) -> None:
        require_object(category, entry)
        category_id = identity(category, entry, "id")
        if category_id in self._labels:
            raise InvalidRequest(f"{entry}.id", f"{category_id!r} stands there twice")
        name = category.get("name", str(category_id))
        if not isinstance(name, str):
            raise InvalidRequest(f"{entry}.name", f"must be text, got {_show(name)}")
        self._add(category_id, name)

    def _add(self, category_id: Id, name: str) -> None:
        self._labels[category_id] = self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> list[str]:
        """By label, all distinct."""
        return list(self._numbers)

    def label(self, annotation: dict[str, Any], entry: str) -> int:
        """Of an annotation."""
        category_id = identity(annotation, entry, "category_id")
        if category_id not in self._labels:
            if self._listed:
                reason = f"{category_id!r} is the id of no category"
                raise InvalidRequest(f"{entry}.category_id", reason)
            self._add(category_id, str(category_id))
        return self._labels[category_id]


def require_object(entry: Any, name: str) -> None:
    """Rejects an entry without keys."""
    if not isinstance(entry, dict):
        raise InvalidRequest(name, "must be an object")


def identity(entry: dict[str, Any], name: str, key: str) -> Id:
    """A whole number or text; 1.0 is 1."""
    value = _whole(entry.get(key))
    # NumPy drops a NUL at the end of text, which the file of masks may hold.
    if isinstance(value, bool) or not isinstance(value, int | str) or "\0" in str(value):
        raise InvalidRequest(f"{name}.{key}", f"must be a whole number or text, got {_show(value)}")
    return value


def side(entry: dict[str, Any], name: str, key: str) -> int:
    """Pixels of an image's height or width."""
    value = _whole(entry.get(key))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
        reason = f"must be a whole number of pixels, got {_show(value)}"
        raise InvalidRequest(f"{name}.{key}", reason)
    return value


def file_name(entry: dict[str, Any], name: str) -> str:
    """Name of an image's file; empty where there is none."""
    value = entry.get("file_name")
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise InvalidRequest(f"{name}.file_name", f"must be text, got {_show(value)}")
    return value


def flag(entry: dict[str, Any], name: str, key: str) -> bool:
    """0 or 1, or a truth value of JSON. Text is none: "0" and "false" would both be true."""
    value = entry.get(key)
    if value is None or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise InvalidRequest(f"{name}.{key}", f"must be 0 or 1, got {_show(value)}")


def corners(entry: dict[str, Any], name: str) -> tuple[float, float, float, float]:
    """``bbox`` as x1, y1, x2, y2."""
    value = entry.get("bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_coordinate, value)):
        reason = f"must be four numbers: x, y, width, height, got {_show(value)}"
        raise InvalidRequest(f"{name}.bbox", reason)
    x, y, width, height = map(float, value)
    if width < 0 or height < 0:
        reason = f"has a negative width or height: {_show(value)}"
        raise InvalidRequest(f"{name}.bbox", reason)
    return x, y, x + width, y + height


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_coordinate(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Sums of two must stay finite in float32. Python compares integers of any size.
    return -1e30 < value < 1e30 and not math.isnan(value)


def _show(value: Any) -> str:
    return reprlib.repr(value)
