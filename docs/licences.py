"""Writes licences.md: what an installation brings, and under which licences (`make docs`).

With ``--check`` it only says whether the page is up to date. Either fails if a licence is neither
permissive nor explained here. What is needed differs by Python and system: the page is of Python
3.11 on Linux.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCUMENT = Path(__file__).with_name("licences.md")
CUDA_LOCK = Path(__file__).resolve().parents[1] / "docker" / "locked" / "cuda.txt"

EXTRAS = ("", "core", "server", "http", "playground", "telemetry", "torch", "plot", "lab", "ray")
"""In the order of installations that grow; a package is listed with the first that brings it."""

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC"),
    *("MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
}
"""By https://spdx.org/licenses: none asks more than to keep notices."""

# What packages say that do not use SPDX's identifiers.
_SAME = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "GPLv2": "GPL-2.0-only",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
# By the licence in their distributions, where metadata say nothing, or BSD without its clauses.
_READ = {
    "cycler": "BSD-3-Clause",
    "faster-coco-eval": "Apache-2.0",
    "jinja2": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "numba": "BSD-2-Clause",
    "pyasn1-modules": "BSD-2-Clause",
    "sympy": "BSD-3-Clause",
}

_CUDA = re.compile("nvidia-|cuda-|triton$")
# Of these, by their metadata, the others than NVIDIA's.
_CUDA_LICENCES = {
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "nvidia-nvtx": "Apache-2.0",
    "triton": "MIT",
}
EXPLAINED = {
    "MPL-2.0": "asks for the source of changes to its own files: none is changed",
    "GPL-2.0-only": "HAProxy, a program of its own that Ray starts, and nothing is linked to",
    "NVIDIA": "NVIDIA's terms for CUDA's libraries, which allow to redistribute them with programs:"
    " `cass[torch]` with CUDA and the image for GPUs bring them",
}


class Package(NamedTuple):
    """An installed package, and what it says of its licence."""

    name: str
    version: str
    licence: str


def licence_of(name: str) -> str:
    """An SPDX expression for the licence of an installed package, as far as it says."""
    if name in _READ:
        return _READ[name]
    fields = metadata.metadata(name)
    if "License-Expression" in fields:
        return str(fields["License-Expression"])
    stated = fields["License"].split("\n")[0] if "License" in fields else ""
    if not stated or len(stated) > 40:  # some have the whole text there
        classifiers: list[str] = fields.get_all("Classifier") or []
        classified = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
        stated = " AND ".join(classified)
    return _SAME.get(stated, stated)


def brought(extra: str) -> dict[str, Package]:
    """What `cass`, or an extra of it, brings here, by normalized names."""
    found: dict[str, Package] = {}
    seen: set[tuple[str, frozenset[str]]] = set()

    def visit(name: str, extras: frozenset[str]) -> None:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                continue
            key = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if key in seen:
                continue
            seen.add(key)
            if key[0] != "cass" and not _CUDA.match(key[0]):  # which torch's build for CUDA brings
                version = metadata.version(key[0]).partition("+")[0]
                found[key[0]] = Package(key[0], version, licence_of(key[0]))
            visit(*key)

    visit("cass", frozenset([extra]))
    return found


def cuda() -> list[Package]:
    """What CUDA's build of torch brings beside what is installed here, by the image's versions."""
    text = CUDA_LOCK.read_text(encoding="utf-8")
    names: list[tuple[str, str]] = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return [
        Package(name, version, _CUDA_LICENCES.get(name, "NVIDIA"))
        for name, version in names
        if _CUDA.match(name)
    ]


def faults(packages: list[Package]) -> Iterator[str]:
    """A line for each licence that somebody has to look at."""
    for package in packages:
        atoms = set(re.split(r" (?:AND|OR) ", package.licence.replace(" WITH LLVM-exception", "")))
        for atom in sorted(atoms - PERMISSIVE - EXPLAINED.keys()):
            yield f"{package.name}: {atom or 'says nothing'} is neither permissive nor explained"


def _filled(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def page() -> tuple[str, list[Package]]:
    """The text, and all packages that it lists."""
    lines = [
        "# Licences of what is installed",
        "",
        *_filled(
            "CASS is under [Apache-2.0](../LICENSE). This is what an installation brings beside it,"
            " in the versions of `constraints.txt`, each with the first extra that needs it."
            " `make docs` writes the page from what the packages say; their own texts are installed"
            " with them."
        ),
        "",
        *_filled(f"Permissive are {', '.join(sorted(PERMISSIVE))}. The others:"),
        "",
        *(line for item in EXPLAINED.items() for line in _filled("- {}: {}.".format(*item), "  ")),
    ]
    listed: dict[str, Package] = {}
    groups = [(f"`cass[{e}]`" if e else "`cass`", list(brought(e).values())) for e in EXTRAS]
    for title, packages in [*groups, ("torch with CUDA", cuda())]:
        new = sorted(package for package in packages if package.name not in listed)
        listed |= {package.name: package for package in new}
        lines += ["", f"## {title}", "", "| package | version | licence |", "|---|---|---|"]
        lines += [f"| {name} | {version} | {licence} |" for name, version, licence in new]
    return "\n".join(lines) + "\n", list(listed.values())


def main() -> None:
    """Write the document, or check it."""
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        print("licences skipped: the page is of Python 3.11 on Linux")
        return
    text, packages = page()
    if found := list(faults(packages)):
        sys.exit("\n".join(found))
    if sys.argv[1:] == ["--check"]:
        stands = DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8")
        sys.exit(f"{DOCUMENT.name}: run `make docs`" if stands != text else 0)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
