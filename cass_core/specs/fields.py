"""Checks of a spec's fields."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from cass_core.errors import InvalidRequest


def check_flag(value: Any, field: str) -> bool:
    """True or False, of Python or NumPy; nothing else is a truth value, text least of all.

    Raises:
        InvalidRequest: it is neither; ``field`` is named.
    """
    # numpy.bool_ is not a bool, yet is what a table of options gives.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InvalidRequest(field, f"must be True or False, got {value!r}")
    return bool(value)


class FieldChecker:
    """Checks the fields of a frozen spec and stores them as plain Python values."""

    def __init__(self, spec: object, prefix: str) -> None:
        self._spec = spec
        self._prefix = prefix

    def fail(self, name: str, reason: str) -> None:
        """Raise the error of a field."""
        raise InvalidRequest(f"{self._prefix}.{name}", reason)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self._spec, name, value)

    def whole(self, name: str, low: int, high: int) -> None:
        """A whole number from low to high."""
        value = getattr(self._spec, name)
        try:
            number = operator.index(value)
        except TypeError:
            number = low - 1
        if isinstance(value, bool) or not low <= number <= high:
            self.fail(name, f"must be a whole number from {low} to {high}, got {value!r}")
        self._set(name, number)

    def number(self, name: str, *, zero_allowed: bool) -> None:
        """A finite number, above 0 or at least 0."""
        self._set(name, self._positive(name, getattr(self._spec, name), zero_allowed))

    def sigma(self, name: str) -> None:
        """A number above 0, or a pair of them."""
        value = getattr(self._spec, name)
        if isinstance(value, list | tuple):
            if len(value) != 2:
                self.fail(name, f"must be one number or a pair (x, y), got {value!r}")
            self._set(name, tuple(self._positive(name, v, zero_allowed=False) for v in value))
        else:
            self.number(name, zero_allowed=False)

    def ranges(self, name: str) -> None:
        """None, or pairs 0 <= low < high."""
        value = getattr(self._spec, name)
        if value is None:
            return
        if not isinstance(value, list | tuple) or not value:
            self.fail(name, f"must be None or a list of pairs (low, high), got {value!r}")
        pairs = []
        for i, pair in enumerate(value):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                self.fail(f"{name}[{i}]", f"must be a pair (low, high), got {pair!r}")
            low = self._positive(f"{name}[{i}]", pair[0], zero_allowed=True)
            high = pair[1]
            if high != math.inf:
                high = self._positive(f"{name}[{i}]", high, zero_allowed=False)
            if not low < high:
                self.fail(f"{name}[{i}]", f"must have low < high, got {pair!r}")
            pairs.append((low, float(high)))
        self._set(name, tuple(pairs))

    def flag(self, name: str) -> None:
        """True or False."""
        self._set(name, check_flag(getattr(self._spec, name), f"{self._prefix}.{name}"))

    def choice(self, name: str, choices: tuple[str, ...]) -> None:
        """One of the names."""
        value = getattr(self._spec, name)
        if not isinstance(value, str) or value not in choices:
            self.fail(name, f"must be one of {', '.join(choices)}, got {value!r}")

    def _positive(self, name: str, value: object, zero_allowed: bool) -> float:
        ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
        try:
            number = float(value) if ok else math.nan  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond every float
            number = math.inf
        if not (math.isfinite(number) and (number > 0 or (zero_allowed and number == 0))):
            bound = "at least 0" if zero_allowed else "above 0"
            self.fail(name, f"must be a finite number {bound}, got {value!r}")
        return number
