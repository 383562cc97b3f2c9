"""Warnings of input that can be used but is probably not what was meant, once a process each."""

from __future__ import annotations

import itertools
import sys
import warnings

from cass_core.errors import InputWarning

# A prime, so that no kind of call is left out where several take turns.
_EACH = 61
_shown: set[str] = set()
_calls = itertools.count()


def were_shown(*kinds: str) -> bool:
    """Whether there is nothing left to look for."""
    return _shown.issuperset(kinds)


def is_due() -> bool:
    """Whether this call's input is looked at: each of the first ones, then some, for the cost."""
    call = next(_calls)
    return call < _EACH or not call % _EACH


def warn_once(kind: str, message: str) -> None:
    """Show an `InputWarning` at the line that called this project, unless that kind was shown."""
    if kind in _shown:
        return
    _shown.add(kind)
    frame = sys._getframe(1)
    while frame.f_back and _is_inside(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    warnings.warn_explicit(
        message, InputWarning, frame.f_code.co_filename, frame.f_lineno, registry={}
    )


def _is_inside(module: str) -> bool:
    """Whether a line is this project's, or torch's between a caller and a module of this one."""
    package = module.split(".")[0]
    return package.startswith("cass_") or package == "torch"
