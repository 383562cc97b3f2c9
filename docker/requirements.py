"""Prints what an image installs beside this project, from pyproject.toml.

So that the layer with the packages stays as it is while only the project's code changes.

    requirements.py EXTRA...          what the project needs, and these extras of it
    requirements.py --build-system    what building its wheel needs
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_OWN_EXTRAS = re.compile(r"cass\[([a-z,]+)\]")


def requirements(project: dict[str, Any], extras: Iterable[str]) -> set[str]:
    """The requirements of a project and of some of its extras.

    Args:
        project: the table of that name in pyproject.toml.
        extras: their names; extras that these name are taken too.

    Example:
        >>> extras = {"core": ["numba"], "server": ["cass[core]", "pydantic"]}
        >>> project = {"dependencies": ["numpy"], "optional-dependencies": extras}
        >>> sorted(requirements(project, ["server"]))
        ['numba', 'numpy', 'pydantic']
    """
    found = set(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = _OWN_EXTRAS.fullmatch(requirement)
            found |= requirements(project, own[1].split(",")) if own else {requirement}
    return found


if __name__ == "__main__":
    table = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    if sys.argv[1:] == ["--build-system"]:
        print("\n".join(table["build-system"]["requires"]))
    else:
        print("\n".join(sorted(requirements(table["project"], sys.argv[1:]))))
