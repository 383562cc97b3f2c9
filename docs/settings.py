"""Writes the list of settings in deployment.md, made from the settings themselves (`make docs`).

With ``--check`` it only says whether the list is up to date.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from cass_server.config.reference import Setting, settings_table

WIDTH = 100
DOCUMENT = Path(__file__).with_name("deployment.md")
BEGIN, END = "<!-- settings, by `make docs` -->", "<!-- end of the settings -->"


def lines() -> Iterator[str]:
    """The list, one heading per group."""
    for group, settings in groupby(settings_table(), lambda setting: setting.group):
        yield f"\n### {group}\n"
        for setting in settings:
            yield _entry(setting)


def _entry(setting: Setting) -> str:
    default = f", by default `{setting.default}`" if setting.default else ""
    text = f"`{setting.option}`{default}: {setting.help} Must be {setting.type}."
    # Code stays in one piece.
    held = re.sub("`[^`]+`", lambda code: code[0].replace(" ", "\0"), text)
    filled = textwrap.fill(
        held, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )
    return filled.replace("\0", " ")


def main() -> None:
    """Write the document, or check it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join([before + BEGIN, *lines(), "", END + after])
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{DOCUMENT.name}: run `make docs`" if made != text else 0)
    DOCUMENT.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
