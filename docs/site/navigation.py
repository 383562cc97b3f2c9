"""The order of the site's pages: which of them are there, and whether one is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import stage


def listed(nav: list[Any], names: set[str], title_of: dict[str, str]) -> list[Any]:
    """The navigation with the pages that are there, and with those of folders."""
    out: list[Any] = []
    for entry in nav:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            inner = listed(target, names, title_of)
            out += [{title: inner}] if inner else []
        elif target.endswith("/"):
            inside = [name for name in names if name.startswith(target)]
            out.append({title: [{title_of[name]: name} for name in sorted(inside)]})
        elif target in names:
            out.append({title: target})
    return out


def targets(nav: list[Any]) -> Iterator[str]:
    """The pages of a navigation."""
    for entry in nav:
        (target,) = entry.values()
        yield from targets(target) if isinstance(target, list) else [target]


def check_nav(nav: list[Any], names: set[str], elsewhere: list[str]) -> None:
    """Raises where a page is in no navigation."""
    lost = {name for name in names - set(targets(nav)) if not name.startswith(tuple(elsewhere))}
    if lost:
        pages = ", ".join(sorted(lost))
        raise stage.PageError(f"in no entry of `nav` in docs/site/zensical.toml: {pages}")
