"""Writes the table of settings in deployment.md, made from the settings themselves (`make docs`).

With ``--check`` it only says whether the table is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from cass_server.config.reference import Setting, settings_table

DOCUMENT = Path(__file__).with_name("deployment.md")
BEGIN, END = "<!-- settings, by `make docs` -->", "<!-- end of the settings -->"


def lines() -> Iterator[str]:
    """The table, one heading a group."""
    for group, settings in groupby(settings_table(), lambda setting: setting.group):
        yield f"\n| {group} | | default | must be | |"
        yield "|---|---|---|---|---|"
        for setting in settings:
            yield _row(setting)


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    cells = f"`{setting.option}`", f"`{setting.variable}`", default, setting.type, setting.help
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the document, or check it."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join([before + BEGIN, *lines(), "", END + after])
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{DOCUMENT.name}: run `make docs`" if made != text else 0)
    DOCUMENT.write_text(made)


if __name__ == "__main__":
    main()
