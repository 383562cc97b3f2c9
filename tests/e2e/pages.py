"""The project's Markdown pages, and the programs and commands that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_AT_TOP = [ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")]
PAGES = [*_AT_TOP, *sorted((ROOT / "docs").rglob("*.md"))]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^    \S.*\n)(?:^    .*\n)*", re.MULTILINE)


def page(name: str) -> str:
    """The text of a page by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def original(name: str) -> str:
    """The English page of a Chinese one, whose programs and commands it has; else the page."""
    return name.replace(".zh.md", ".md").replace("docs/zh/", "docs/")


def programs(text: str) -> list[str]:
    """The Python programs of a page."""
    return [code for language, code in _FENCED.findall(text) if language == "python"]


def shell_blocks(text: str) -> list[str]:
    """The indented blocks, and the fenced ones in ``sh``: what a reader types."""
    fenced = [code for language, code in _FENCED.findall(text) if language == "sh"]
    return fenced + _INDENTED.findall(_FENCED.sub("", text))


def command_lines(text: str) -> list[str]:
    """The lines of these blocks without comments, continued ones joined."""
    lines = [
        re.sub(r"\s+#\s.*$", "", line).strip()
        for block in shell_blocks(text)
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    return [line for line in lines if line]


def commands(text: str) -> list[list[str]]:
    """The same as a shell takes them apart."""
    return [shlex.split(line) for line in command_lines(text)]
