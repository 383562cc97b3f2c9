"""An extension of griffe: rewrites docstrings into the sections that mkdocstrings knows."""

from __future__ import annotations

import re
from typing import Any

import griffe

# Tables are drawn in plain text, as `help` shows them.
_TABLE = re.compile(r"^=+ =[ =]*\n.*^=+ =[ =]*$", re.MULTILINE | re.DOTALL)
_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*)$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Examples are shown as code, tables as they are, and a shared entry for each parameter."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change a docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = for_griffe(obj.docstring.value)


def for_griffe(text: str) -> str:
    """A docstring in the words that griffe knows.

    Example:
        >>> print(for_griffe("Args:\\n    a, b: both."))
        Args:
            a: both.
            b: both.
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = _TABLE.sub(lambda table: f"```text\n{table[0]}\n```", text)

    def one_each(match: re.Match[str]) -> str:
        indent, names, said = match.groups()
        return "\n".join(f"{indent}{name}: {said}" for name in names.split(", "))

    return _SHARED.sub(one_each, text)
