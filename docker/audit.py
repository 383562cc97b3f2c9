"""Asks for known vulnerabilities of all that is installed, by pip-audit beside this interpreter.

    audit.py [--required] FILE...    files of requirements, each with its exact version

Exits with 1 if there are any that EXPLAINED does not explain, or with --required also if something
could not be looked up. Without a network it says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EXPLAINED: Mapping[str, str] = {}
"""Why a vulnerability, by its identifier, does not concern this project."""

_UNREACHED = re.compile("ConnectionError|Timeout|ProxyError|SSLError")
"""In the traceback with which pip-audit ends when the service does not answer."""


def pins(texts: Iterable[str]) -> list[str]:
    """Each requirement of some files once, without the hashes that not all of them have.

    Example:
        >>> pins(["a==1 \\\\\\n    --hash=sha256:00\\nb==2.0.post1\\n", "# b==1\\na==1\\n"])
        ['a==1', 'b==2.0.post1']
    """
    found = (re.findall(r"^[\w.-]+==[^\s;]+", text, re.MULTILINE) for text in texts)
    return sorted({pin for pins in found for pin in pins})


def judge(
    dependencies: Iterable[Mapping[str, Any]], explained: Mapping[str, str] = EXPLAINED
) -> tuple[list[str], list[str], int]:
    """What pip-audit found, by its JSON.

    Returns:
        A line for each vulnerability that is not explained, one for each package that was not
        looked up, and how many were.
    """
    found: list[str] = []
    unchecked: list[str] = []
    checked = 0
    for dependency in dependencies:
        if "skip_reason" in dependency:
            unchecked.append(f"{dependency['name']} was not checked: {dependency['skip_reason']}")
            continue
        checked += 1
        for vulnerability in dependency["vulns"]:
            if explained.keys() & {vulnerability["id"], *vulnerability["aliases"]}:
                continue
            fixes = " or ".join(vulnerability["fix_versions"]) or "no version yet"
            found.append(
                f"{dependency['name']} {dependency['version']}: {vulnerability['id']},"
                f" mended by {fixes}"
            )
    return found, unchecked, checked


def main() -> None:
    """Audit the files that are named."""
    required = "--required" in sys.argv
    files = [argument for argument in sys.argv[1:] if argument != "--required"]
    required_pins = pins(Path(file).read_text(encoding="utf-8") for file in files)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as merged:
        merged.write("\n".join(required_pins))
        merged.flush()
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("pip-audit"), "--format", "json"),
                *("--vulnerability-service", "osv", "--progress-spinner", "off"),
                # The files are complete, and nothing is to be installed.
                *("--disable-pip", "--no-deps", "--requirement", merged.name),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if not done.stdout and _UNREACHED.search(done.stderr):
        print(f"not checked: {done.stderr.strip().splitlines()[-1]}")
        sys.exit(required)
    if not done.stdout:
        sys.exit(done.stderr)
    dependencies = json.loads(done.stdout)["dependencies"]
    found, unchecked, checked = judge(dependencies)
    print("".join(f"{line}\n" for line in [*found, *unchecked]), end="")
    print(f"{checked} packages looked up, {len(found)} vulnerabilities that are not explained")
    sys.exit(bool(found) or (required and bool(unchecked)))


if __name__ == "__main__":
    main()
