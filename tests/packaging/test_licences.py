"""The page of licences: nothing that is installed is missing, and nobody's terms pass unread."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LICENCES = runpy.run_path(str(ROOT / "docs" / "licences.py"))
Package = LICENCES["Package"]


def test_every_extra_is_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].keys() - {"all", "dev"}
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `cass\[(\w+)\]`$", page, re.MULTILINE)) == extras


@pytest.mark.parametrize("image", ["client", "cpu", "cuda"])
def test_what_an_image_installs_is_on_the_page(image: str) -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([\w.-]+) \| (\S+) \| .+ \|$", page, re.MULTILINE))
    lock = (ROOT / "docker" / "locked" / f"{image}.txt").read_text(encoding="utf-8")
    installed = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    assert installed
    assert {name: listed.get(name) for name in installed} == installed


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", []),
        ("Apache-2.0 WITH LLVM-exception AND BSD-3-Clause", []),
        ("MPL-2.0 AND MIT", []),  # explained
        ("AGPL-3.0-only", ["AGPL-3.0-only"]),
        ("MIT AND LGPL-3.0-only", ["LGPL-3.0-only"]),
        ("BSD License", ["BSD License"]),  # of how many clauses?
        ("", ["says nothing"]),
    ],
)
def test_a_licence_that_somebody_has_to_look_at(licence: str, refused: list[str]) -> None:
    told = list(LICENCES["faults"]([Package("mine", "1", licence)]))
    assert told == [f"mine: {name} is neither permissive nor explained" for name in refused]
